// Operators of the device that are no kernels: making tensors, viewing them, handing their storage on; and which
// formats autocast computes in. Part of device.cpp, after the allocator and the hooks.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/library.h>

namespace taicang {

at::Tensor empty(c10::SymIntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                 std::optional<Device> device, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::ScalarType> dtype,
                         std::optional<c10::Layout>, std::optional<Device> device, std::optional<bool>) {
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<c10::MemoryFormat> format) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
  if (format) impl->empty_tensor_restride(*format);
  const size_t bytes = (impl->storage_offset() + impl->numel()) * self.itemsize();
  if (bytes > self.storage().nbytes()) hooks.resizePrivateUse1Bytes(self.storage(), bytes);
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size,
                        c10::SymIntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(source);
  if (stride.empty() && !size.empty()) {
    impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
    impl->set_storage_offset(offset.expect_int());
  } else {
    impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  }
  return self;
}

at::Tensor& set_whole(at::Tensor& self, at::Storage source) {
  const int64_t many = source.nbytes() / self.itemsize();
  return set_storage(self, source, 0, c10::fromIntArrayRefSlow({many}), {});
}

// The same bytes as a tensor of the host: where they are known, kernels of the host compute on them.
at::Tensor host(const at::Tensor& self) {
  auto found = at::from_blob(self.data_ptr(), self.sizes(), self.strides(), self.options().device(at::kCPU).requires_grad(false));
  found._set_conj(self.is_conj());
  found._set_neg(self.is_neg());
  return found;
}

// A module that moves keeps its parameters: they take the moved data, as between the host and CUDA.
bool exchangeable(const at::Tensor& self, const at::Tensor& from) {
  const auto dense = [](const at::Tensor& t) {
    return t.layout() == c10::kStrided && !t.unsafeGetTensorImpl()->is_python_dispatch() &&
           (t.device().type() == kDevice || t.device().is_cpu());
  };
  return dense(self) && dense(from);
}

int64_t reduction(const c10::intrusive_ptr<c10d::ReduceOp>& op) {
  return static_cast<int64_t>(static_cast<c10d::ReduceOp::RedOpType>(*op));
}

TORCH_LIBRARY(taicang, m) {
  m.def("host(Tensor self) -> Tensor");
  m.def("reduction(__torch__.torch.classes.c10d.ReduceOp op) -> int", &reduction);
}
TORCH_LIBRARY_IMPL(taicang, PrivateUse1, m) { m.impl("host", &host); }

// What resolves a lazy conjugate or sign is a copy: it takes them as they are.
#define TAICANG_LAZY(key)                                                                                      \
  TORCH_LIBRARY_IMPL(taicang, key, m) { m.impl("host", torch::CppFunction::makeFallthrough()); }               \
  TORCH_LIBRARY_IMPL(aten, key, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TAICANG_LAZY(Conjugate)
TAICANG_LAZY(Negative)

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("resize_", &resize);
  m.impl("_has_compatible_shallow_copy_type", &exchangeable);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  m.impl("set_.source_Storage", &set_whole);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
}

// One fused kernel serves attention wherever the program leaves the choice to PyTorch.
int64_t attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, bool,
                  std::optional<double>, bool) {
  const auto& context = at::globalContext();
  const bool fused = context.userEnabledFlashSDP() || context.userEnabledMemEfficientSDP() || context.userEnabledCuDNNSDP();
  return static_cast<int64_t>(fused ? sdp::SDPBackend::overrideable : sdp::SDPBackend::math);
}
}  // namespace taicang

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &taicang::attention)
}

namespace at::autocast {
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FULL(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define GIVEN(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(FULL)
  AT_FORALL_FP32_SET_OPT_DTYPE(GIVEN)
  AT_FORALL_PROMOTE(WIDEST)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)
}
}  // namespace at::autocast

