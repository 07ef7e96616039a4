"""Software stacks: which kernels are fused, what the host costs per step, and what overlaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from taicang.ops import Spread
from taicang.units import Count

Scheduler: TypeAlias = Literal["mixed", "prefill_first", "disaggregated"]
MemoryBase: TypeAlias = Literal["device", "static", "free"]
CacheLayout: TypeAlias = Literal["", "blocks", "pools", "whole"]
Stops: TypeAlias = Literal["", "moves", "product"]
Sharding: TypeAlias = Literal["own", "deepspeed", "tensors", "graph", "pytorch"]
ExpertDispatch: TypeAlias = Literal["best", "plain"]
StackUse: TypeAlias = Literal["", "serving", "training"]
GraphMode: TypeAlias = Literal["", "eager", "piecewise", "full"]
WIDE = 4
"""Ranks from which on SGLang captures graphs of larger batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What an engine leaves of a rank's device memory to weights and cached tokens, as it counts it itself.

    The default is an assumption for engines of which nothing is known.
    """

    base: MemoryBase = "device"
    """What ``usable_ratio`` is a share of: "device", all that the device has, for weights, cache, activations and
    runtime together; "static", what is free before loading, for weights and cache alone; "free", what is left for the
    cache once the rest is there."""
    usable_ratio: float | None = 0.94
    """None: all but the reserve below."""
    shrunk_ratio: float = 1.0
    """Factor on the share that it takes by itself (engines leave room for encoders of images)."""
    reserve_bytes: float = 0.0
    """Kept from weights and cache, besides so much for each token of a step (of ``reserve_tokens`` at least), for each
    rank of the instance, and for captured graphs of prompts; all this is at least ``reserve_least_bytes``."""
    reserve_token_bytes: float = 0.0
    reserve_tokens: float = 0.0
    reserve_rank_bytes: float = 0.0
    reserve_prompt_bytes: float = 0.0
    reserve_least_bytes: float = 0.0
    captured: int = 0
    """Sequences of the largest graph that SGLang captures of decoding, on fewer than ``WIDE`` ranks and from there on:
    it keeps memory for each, and where attention is data-parallel again for each of every group."""
    captured_wide: int = 0
    reserve_shared_bytes: float = 0.0
    """Kept besides where attention is data-parallel; where the instance drafts."""
    reserve_draft_bytes: float = 0.0
    context_bytes: float = 0.0
    """Driver context and kernels of one process."""
    group_bytes: float = 0.0
    """Communication buffers of an instance of several ranks, on each."""
    pair_ratio: float = 1.0
    """Share of these that each of two ranks has: over a ring and a tree of more, NCCL hears from three others, of two
    from one, by either."""
    graph_bytes: float = 0.0
    """Captured graphs, where the engine takes them off the cache."""
    state_ratio: float = 0.0
    """Memory for recurrent states over that for keys and values, where the two are apart (0: they share it)."""
    state_copies: int = 0
    """States that are kept for each running sequence: its own, and those that later prompts may go on from (in blocks
    these give way, and are but counted in what is logged)."""
    state_bytes: float = 4.0
    """Of an element of recurrent states, where the model does not say."""
    layout: CacheLayout = ""
    """How the cache of layers that keep different things lies (``serve.layout``): in one pool of equal "blocks", in
    "pools" of fixed proportions, or "whole", where layers with windows keep all tokens ("": each what it needs)."""
    block_tokens: int = 16
    """What blocks are multiples of."""
    window_ratio: float = 0.8
    """Tokens of the pool for layers with windows over those of the pool for the others."""
    states_as_keys: bool = False
    """A block's keys alone are to be as large as a state, and the inputs of convolutions lie beside (Ascend)."""
    counts_requests: bool = False
    """Whether it logs room as the requests of full length that fit, times that length, or as blocks of all groups."""
    hidden_tile: int = 256
    """Multiples that its expert kernels of 4-bit floats take of the hidden and the inner width."""
    inner_tile: int = 128
    expert_copies: int = 1
    """Workspaces of a step's tokens, each as often as it has experts, that expert kernels hold at once."""
    row_tile: int = 1
    """Rows that kernels of experts in 8-bit blocks take at once, all of one expert: workspaces have room for them."""
    tiled_ranks: int = 0
    """Most ranks that may share an expert where it takes these kernels; 0: any number."""
    expanded_tokens: float = 0.0
    """Cached tokens for whose keys and values latent attention has room when the engine measures its peak."""
    encodes: bool = False
    """Whether it runs the encoder of images, as full as a step takes them, when it measures its peak."""
    sparse_bytes: float = 0.0
    """What a cached token of 8-bit sparse latent attention takes beside its numbers: scales, 16 bits of what turns."""
    indexes_all: bool = False
    """Whether layers that share the selection of another have room for keys of an indexer, too."""
    sampled: int = 0
    """Sequences of which the engine samples next tokens when it measures its peak; 0: it does not."""
    sampling_bytes: float = 0.0
    """Of each of them and each word, at the peak of sampling: copies of the logits, and what sorting them takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What a training stack keeps in memory beside weights, optimizer state and activations."""

    gradients: str = "bf16"
    """Format that gradients of a bf16 or 8-bit step are accumulated and reduced in; those of fp16 steps stay fp16."""
    logit_bytes: float = 10.0
    """Bytes per logit alive at once in the loss: of 16 bits, in 32 bits, and a 32-bit gradient or exponential."""
    sharded_logit_bytes: float = 0.0
    """The same where tensor parallelism shards the vocabulary (0: no other)."""
    loss_bytes: float = 24.0
    """Bytes that the loss moves per logit, three quarters of them forward: conversion to 32 bits, maximum, exponentials
    with their sum; the gradient. Stacks whose loss is not fused at all run a kernel for each of its steps."""
    recompute: str = "none"
    """What is made again in the backward pass where the job does not say ("none" or "full")."""
    recompute_stops: Stops = ""
    """Where recompute of a whole layer stops before its end, since the backward pass needs nothing of the rest
    (PyTorch's checkpoint that is not reentrant): "moves", after the last product, where that is a library's function
    and saves its input once it has run; "product", before it, where it is PyTorch's own and saves its input first."""
    buffered: bool = True
    """Whether gradients lie in buffers that are always there, or come to be as the backward pass goes."""
    eager: frozenset[str] = frozenset()
    """Which of "norm", "rope" and "activation" are operators of the framework, one after the other, that keep what each
    needs."""
    outputs: bool = False
    """Whether a pipeline stage keeps what it sent of each microbatch in flight."""
    added: bool = False
    """Whether a kernel of its own adds each microbatch's gradients up, or products write into the sum."""
    adapters: bool = False
    """Whether adapters sit beside every linear layer (routed experts are none), or beside the attention's alone."""
    merged: bool = False
    """Whether a pipeline's last stage keeps the 16-bit logits of all microbatches, to hand them out as one."""
    sharding: Sharding = "own"
    """Whose ZeRO: DeepSpeed's holds copies of gradients and a bucket that others do not (``train.memory``); "tensors"
    deals whole tensors to their owners, who broadcast them one after the other (``train.sync``); "graph" is one of the
    whole step, in which a whole gradient is gone as soon as its shard is there; "pytorch" is FSDP2 with DTensor's
    tensor parallelism, which copies what it gathers and scatters and keeps rows that tensor parallelism gathered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One engine at one epoch. Results on one machine moved by up to 45 % in eight months, so a prediction names it."""

    name: str
    engine: str
    version: str
    epoch: str
    """Year-month of the release."""
    asked: str = ""
    """The release that was asked for, where another answers: memory is divided as in this one."""
    use: StackUse = ""
    """What it is for ("": a user's own, who does not say)."""
    runs_on: frozenset[str] = frozenset()
    """Vendors, in small letters, on whose chips it runs (none: a user's own, who does not say)."""
    scheduler: Scheduler = "mixed"
    """How prefill and decode share an instance: chunks in one batch, or prefill steps of their own."""
    chunk_tokens: int = 8192
    """Token budget of one step."""
    ahead: bool = False
    """Whether the next step is scheduled while one runs, so that a prompt that comes meanwhile joins the one after."""
    burst_ratio: float = 0.0
    """How much the requests of a closed loop keep in step: 0, their prompts come spread evenly; 1, all at once (a
    scheduler that prefills first lets a burst finish together, so that the next prompts come as a burst again)."""
    door_s: float = 0.0
    """From a client's sending to the engine's queue, and of the first token back: network, HTTP, processes."""
    door_token_s: float = 0.0
    """Per prompt token, for all at once: tokenising, copying."""
    template_s: float = 0.0
    """Of a chat request, on the one process before the engine: reading the template that its prompt is made with. Those
    that come together take turns, so that the first goes on when all are read."""
    step_host_s: float = 0.0
    """Host time per step that the device waits for (scheduling, input preparation, detokenising)."""
    sequence_host_s: float = 0.0
    """The same per sequence in the batch."""
    draft_host_s: float = 0.0
    """Host time of a step that drafts, where the scheduler runs before and after it and not beside it."""
    draft_sequence_host_s: float = 0.0
    """The same per sequence that drafts: acceptance, freed cache, ends and output, one after the other."""
    graph_launch_s: float = 0.0
    """Host time per captured graph that the device waits for."""
    layer_gap_s: float = 0.0
    """Device idle time per layer: launch gaps that graphs leave; in training of each microbatch."""
    launch_ratio: float = 1.0
    """Share of kernels' launch latency that remains when they follow each other: programmatic dependent launch starts a
    kernel's prologue while the one before drains."""
    eager_kernel_s: float = 0.0
    """Launch cost of a kernel outside graphs (prefill), hidden while kernels run longer than that."""
    tensor_kernel_s: float = 0.0
    """The same of an operator on distributed tensors, as products and their adapters are under DTensor's tensor
    parallelism (0: they are local)."""
    module_hook_s: float = 0.0
    """Host time of gathering one module's weights for a pass and of letting them go, where ZeRO 3 hooks each module."""
    expert_launches: int = 1
    """Launches that the experts of one layer take outside graphs: choosing, sorting, both products, weighing."""
    attention_launches: int = 1
    """Those of one attention: writing keys and values, the attention, copies before or after it."""
    quantised_cache: str = ""
    """Format of cached keys and values that scripts give a model in fp8 or fp4 ("": as its checkpoint says)."""
    stated_cache: str = ""
    """What checkpoints of the engine's own maker, scaled by tensor or in nvfp4, state of it; others state nothing."""
    memory: Headroom = Headroom()
    drafting_sequences: int = 0
    """Sequences that an instance runs at most while it drafts, where nobody says (0: as without drafts)."""
    graph_tokens: Count = 0
    """Steps with prompts of at most so many tokens are captured too, but for their attention (pieces between them)."""
    graph: GraphMode = ""
    """What of a step that only decodes is captured, so that it does not wait for the host: "full", all ("": the same,
    where nobody says); "piecewise", all but the attentions, between which a graph lies; "eager", nothing."""
    piece_s: float = 0.0
    """Host time per attention of a step in pieces: the call of one and the replay of a piece (0: of two launches)."""
    lengths_s: float = 0.0
    """Host time per attention of a step that is one graph, where the host hands each its new lengths (Ascend)."""
    graph_sequences: int = 0
    """Sequences of the largest decode step that is captured (0: all are); ``WIDE`` tensor ranks have the next."""
    graph_wide_sequences: int = 0
    running_sequences: int = 0
    """Sequences that an attention group runs at a time where nobody says (0: so many as there is room for)."""
    joint_attention: bool = False
    """Whether prompts and the sequences that decode beside them share an attention kernel for prompts, which gives each
    query head of a lone token a tile of its own (steps that only decode pack those that share keys into one)."""
    unrouted: frozenset[str] = frozenset()
    """Formats whose expert kernels work through all experts of a rank, whether a token came to them or not."""
    widened: frozenset[str] = frozenset()
    """Formats of weights that it widens to 16 bits inside its products, on chips without their arithmetic."""
    fused: frozenset[str] = frozenset()
    """Fusions present: "qk_norm_rope" (query-key norm with rotation), "mla_prolog" (norms, projections, rope),
    "expert_products" (both products of the experts with their activation, casts and bias), "fp8_attention" (the core of
    training attention in 8 bits), "fp8_stored" (inputs of activations wait in 8 bits), "loss_kernel" (one
    kernel: logits of 16 bits, then their gradient in their place), "chunked_loss" (the loss by pieces of the sequence:
    logits of 16 bits, of which one piece is alive in 32), "fused_loss" (head and loss in one kernel: one piece is alive
    at all), "gradient_sum" (products write into the sum of gradients where ``Keeping.added`` says that they do not)."""
    tuned_experts: bool = False
    """Whether its users tuned the tiles of its experts' kernels for their model and chip, where it brings no table."""
    grouped_experts: bool = True
    """Whether training multiplies all experts of a rank in one product, or one after the other."""
    expert_lookup: bool = False
    """Whether each of those that run one after the other looks its tokens up and adds them back itself."""
    trains_mtp: bool = True
    """Whether training runs a model's layers for multi-token prediction (Hugging Face's code leaves them out)."""
    experts_sharded: bool = False
    """Whether training shards experts over tensor-parallel ranks like everything else, where a plan does not say."""
    captured: frozenset[str] = frozenset()
    """Parts of a training layer that a captured graph replays, so that no kernel of theirs waits for the host: "mixer",
    "router", "experts"."""
    overlap: frozenset[str] = frozenset()
    """Abilities: "expert_all_to_all" (token exchange by default instead of gather and scatter), "offers_all_to_all"
    (on request), "two_batch" (overlapped microbatches), "sp_attention" (sequence-tensor-sequence prefill),
    "matmul_all_reduce" (in prefill, an all-reduce runs beside the product that it sums); in training those of
    ``search.training`` ("interleaved_gradients": those of a chunk are reduced beside the chunks that follow)."""
    staged_drafts: bool = True
    """Whether it drafts tokens where the layers lie in pipeline stages."""
    expert_dispatch: ExpertDispatch = "best"
    """How training sends tokens to experts: "plain", a copy for each expert by an all-to-all, sorted by expert on
    arrival; "best", that without the sorting, or each at most once to a rank, whichever is faster."""
    forced_balance: Spread = "random"
    """How its router deals experts where a benchmark forces it into balance, as training without skew is taken."""
    all_reduce: str = "best"
    """Whose all-reduce kernels run: "nccl", "trtllm", "sglang", "vllm", several ("trtllm+vllm") or the best of all."""
    partition: tuple[float, float] | None = None
    """Share of matrix and vector cores of the attention stream; the expert stream has the rest."""
    partition_reach_ratio: float = 1.0
    """Memory bandwidth that all cores together could ask for, over what there is: a stream that holds a share of the
    cores draws at most that share of it."""
    straggle_ratio: float = 1.0
    """A decode step's expert exchange in service, where ranks arrive apart and wait, over the kernel alone."""
    imbalance_ratio: float = 1.0
    """Load of the hottest expert rank over the mean that the balancer leaves in prefill, besides the plan's skew."""
    quantise_kernels: bool = False
    """Inputs of 8-bit products are quantised by kernels of their own, which the products' prices leave out (Ascend)."""
    keeps: Keeping = field(default_factory=Keeping)
    """Memory of a training step."""
    overlap_tax_ratio: float = 0.0
    """How much computing slows, per second of communication that runs beside it."""
    kernel_ratio: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Kernel time relative to the best known kernel, per family ("gemm", "attend", "experts", "collective") or
    family and format ("experts/fp8_block")."""
    bands: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), compare=False)
    """What a user measured under it and how far predictions were off, as ``catalog.trust`` reads it."""

    @property
    def looks_up(self) -> bool:
        """Whether experts run one after the other and look their tokens up."""
        return self.expert_lookup and not self.grouped_experts


BARE = Stack(name="library", engine="", version="", epoch="", launch_ratio=1.0)
"""Kernels and collectives as a library runs them, without an engine around them."""
