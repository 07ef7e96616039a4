"""Two steps of small models of Hugging Face's families, and generation in four ways."""

import sys

import torch
import transformers as hf

ids = torch.randint(1, 100, (2, 16)).cuda()
image = torch.randn(2, 3, 32, 32).cuda()
SMALL = dict(vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
DECODER = SMALL | dict(intermediate_size=128, num_key_value_heads=2)
ENCODER = SMALL | dict(intermediate_size=128)
PICTURE = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8)
TEXT = {"input_ids": ids, "labels": ids}
MAMBA2 = dict(vocab_size=100, hidden_size=64, num_heads=8, head_dim=16, num_hidden_layers=2, n_groups=1, state_size=16, chunk_size=8)
WHISPER = dict(
    vocab_size=100, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=128, decoder_ffn_dim=128, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)
DETR = dict(
    use_timm_backbone=False, backbone_config=hf.ResNetConfig(depths=[1, 1, 1, 1], out_features=["stage4"]), d_model=64,
    encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, num_queries=10,
)
boxes = [{"class_labels": torch.tensor([1]).cuda(), "boxes": torch.rand(1, 4).cuda()} for _ in range(2)]
MODELS = {
    "mamba": lambda: (hf.MambaForCausalLM(hf.MambaConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2)), TEXT),
    "mamba2": lambda: (hf.Mamba2ForCausalLM(hf.Mamba2Config(**MAMBA2)), TEXT),
    "mixtral": lambda: (hf.MixtralForCausalLM(hf.MixtralConfig(**DECODER, num_local_experts=4)), TEXT),
    "gpt-oss": lambda: (hf.GptOssForCausalLM(hf.GptOssConfig(**DECODER, head_dim=16, num_local_experts=4)), TEXT),
    "bert": lambda: (hf.BertForMaskedLM(hf.BertConfig(**ENCODER)), TEXT),
    "t5": lambda: (hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=100, d_model=64, d_kv=16, d_ff=128, num_layers=2,
                                                             num_heads=4, decoder_start_token_id=0)), TEXT),
    "whisper": lambda: (hf.WhisperForConditionalGeneration(hf.WhisperConfig(**WHISPER)),
                        {"input_features": torch.randn(2, 80, 3000).cuda(), "labels": ids}),
    "wav2vec2": lambda: (hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**ENCODER)),
                         {"input_values": torch.randn(2, 16000).cuda(), "labels": ids}),
    "clip": lambda: (hf.CLIPModel(hf.CLIPConfig(text_config=ENCODER | {"eos_token_id": 2}, vision_config=PICTURE)),
                     {"input_ids": ids, "pixel_values": image, "return_loss": True}),
    "vit": lambda: (hf.ViTForImageClassification(hf.ViTConfig(**PICTURE, num_labels=10)),
                    {"pixel_values": image, "labels": torch.tensor([1, 2]).cuda()}),
    "detr": lambda: (hf.DetrForObjectDetection(hf.DetrConfig(**DETR)),
                     {"pixel_values": torch.randn(2, 3, 64, 64).cuda(), "labels": boxes}),
}
for name in sys.argv[1:]:
    if name == "generate":
        model, draft = (hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER)).cuda().eval() for _ in range(2))
        for given, how in (
            (ids, dict(cache_implementation="static", do_sample=False)), (ids[:1], dict(assistant_model=draft)),
            (ids, dict(num_beams=3)), (ids, dict(do_sample=True, top_p=0.9, top_k=10, repetition_penalty=1.1)),
        ):
            print("generated", tuple(model.generate(given, max_new_tokens=4, **how).shape), flush=True)
        continue
    model, batch = MODELS[name]()
    model.cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print("trained", name, float(loss), flush=True)
