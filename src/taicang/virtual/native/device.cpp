// The virtual device: what PyTorch asks of an accelerator (allocator, streams, events, generators, tensors that are
// views) without one. No Python in here, so that no exception of Python crosses a function that must not throw. The
// kernels themselves are in Python, behind the fallback of the same dispatch key.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/library.h>

#include <cstring>
#include <iomanip>
#include <mutex>
#include <sstream>

#include "memory.h"

namespace taicang {

using c10::Device;
using c10::DeviceIndex;
using c10::Stream;
constexpr auto kDevice = c10::DeviceType::PrivateUse1;

// Work of this process in the order of issue: {what, stream, value}.
enum What : int64_t { kKernel, kRecord, kBlock_, kWaitEvent, kWaitStream, kWaitDevice, kCollective, kMark, kWaitWork };
struct Entry {
  int64_t what, stream, value;
};

std::recursive_mutex lock;
std::vector<Entry> work;
std::vector<Memory> memories;
std::string failure;  // of the allocation that failed last
int64_t events = 0, streams = 1;
int devices = 1;
bool vendor_huawei = false;
thread_local DeviceIndex current = 0;
thread_local std::unordered_map<int, c10::StreamId> chosen;

int64_t note(int64_t what, int64_t stream, int64_t value) {
  std::lock_guard<std::recursive_mutex> held(lock);
  work.push_back({what, stream, value});
  return work.size() - 1;
}

int64_t stream_now() {
  auto found = chosen.find(current);
  return found == chosen.end() ? 0 : found->second;
}

std::string size_text(int64_t bytes) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(2);
  if (bytes >= (1LL << 30)) out << bytes / double(1LL << 30) << " GiB";
  else if (bytes >= (1 << 20)) out << bytes / double(1 << 20) << " MiB";
  else out << bytes / 1024.0 << " KiB";
  return out.str();
}

std::string full(const Memory& memory, int64_t bytes, int device) {
  const auto free = size_text(memory.capacity - memory.reserved), total = size_text(memory.capacity);
  const auto held = size_text(memory.allocated), idle = size_text(memory.reserved - memory.allocated);
  std::ostringstream out;
  if (vendor_huawei)
    out << "NPU out of memory. Tried to allocate " << size_text(bytes) << " (NPU " << device << "; " << total
        << " total capacity; " << held << " already allocated; " << held << " current active; " << free << " free; "
        << size_text(memory.reserved) << " reserved in total by PyTorch) If reserved memory is >> allocated memory try "
        << "setting max_split_size_mb to avoid fragmentation.";
  else
    out << "CUDA out of memory. Tried to allocate " << size_text(bytes) << ". GPU " << device
        << " has a total capacity of " << total << " of which " << free << " is free. Including non-PyTorch memory, "
        << "this process has " << size_text(memory.reserved) << " memory in use. Of the allocated memory " << held
        << " is allocated by PyTorch, and " << idle << " is reserved by PyTorch but unallocated. If reserved but "
        << "unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid "
        << "fragmentation.  See documentation for Memory Management  "
        << "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)";
  return out.str();
}

void release(void* at) {
  std::lock_guard<std::recursive_mutex> held(lock);
  for (auto& memory : memories) memory.give(at, work.size());
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (!bytes) return {nullptr, nullptr, &release, Device(kDevice, current)};
    std::lock_guard<std::recursive_mutex> held(lock);
    Memory& memory = memories.at(current);
    Block* block = memory.take(bytes, stream_now(), work.size());
    TORCH_CHECK_WITH(OutOfMemoryError, block, full(memory, bytes, current));
    return {block->at, block->at, &release, Device(kDevice, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
Allocator allocator;
REGISTER_ALLOCATOR(kDevice, &allocator);

struct Event {
  int64_t version;
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kDevice; }
  Device exchangeDevice(Device device) const override {
    const Device old(kDevice, current);
    if (device.has_index()) current = device.index();
    return old;
  }
  Device getDevice() const override { return {kDevice, current}; }
  void setDevice(Device device) const override {
    TORCH_CHECK(device.index() < devices, "invalid device ordinal ", int(device.index()), " (there are ", devices, ")");
    uncheckedSetDevice(device);
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.has_index()) current = device.index();
  }
  Stream getStream(Device device) const override {
    const int at = device.has_index() ? device.index() : current;
    auto found = chosen.find(at);
    return Stream(Stream::UNSAFE, Device(kDevice, at), found == chosen.end() ? 0 : found->second);
  }
  Stream getDefaultStream(Device device) const override {
    return Stream(Stream::UNSAFE, Device(kDevice, device.has_index() ? device.index() : current), 0);
  }
  Stream getStreamFromGlobalPool(Device device, bool) const override { return getNewStream(device, 0); }
  Stream getNewStream(Device device, int) const override {
    std::lock_guard<std::recursive_mutex> held(lock);
    return Stream(Stream::UNSAFE, Device(kDevice, device.has_index() ? device.index() : current), streams++);
  }
  Stream exchangeStream(Stream stream) const override {
    const Stream old = getStream(stream.device());
    chosen[stream.device_index()] = stream.id();
    return old;
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  void record(void** event, const Stream& stream, const DeviceIndex, const c10::EventFlag) const override {
    std::lock_guard<std::recursive_mutex> held(lock);
    if (!*event) *event = new Event;
    static_cast<Event*>(*event)->version = ++events;
    note(kRecord, stream.id(), events);
  }
  void block(void* event, const Stream& stream) const override {
    if (event) note(kBlock_, stream.id(), static_cast<Event*>(event)->version);
  }
  bool queryEvent(void* event) const override {
    if (event) note(kWaitEvent, 0, static_cast<Event*>(event)->version);
    return true;
  }
  DeviceIndex deviceCount() const noexcept override { return devices; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream& stream) const override { note(kWaitStream, stream.id(), 0); }
  void synchronizeEvent(void* event) const override {
    if (event) note(kWaitEvent, 0, static_cast<Event*>(event)->version);
  }
  void synchronizeDevice(const DeviceIndex) const override { note(kWaitDevice, 0, 0); }
  void* getStreamNativeHandle(const Stream stream) const override { return reinterpret_cast<void*>(stream.id()); }
  double elapsedTime(void* from, void* to, const DeviceIndex) const override;
};
using Elapsed = double (*)(int64_t, int64_t);
Elapsed elapsed = nullptr;  // milliseconds between two versions of events, by the schedule in Python
double Guard::elapsedTime(void* from, void* to, const DeviceIndex) const {
  TORCH_CHECK(from && to, "Both events must be recorded before calculating elapsed time.");
  return elapsed ? elapsed(static_cast<Event*>(from)->version, static_cast<Event*>(to)->version) : 0.0;
}
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Generator final : at::CPUGeneratorImpl {
  explicit Generator(DeviceIndex index) {
    device_ = Device(kDevice, index);
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }
  // Seed and offset, 16 bytes, as counter-based generators keep.
  uint64_t offset = 0;
  void set_offset(uint64_t value) override { offset = value; }
  uint64_t get_offset() const override { return offset; }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    at::Tensor state = at::empty({16}, at::TensorOptions().dtype(at::kByte).device(at::kCPU));
    const uint64_t values[] = {current_seed(), offset};
    std::memcpy(state.mutable_data_ptr(), values, sizeof values);
    return state.getIntrusivePtr();
  }
  void set_state(const c10::TensorImpl& state) override {
    uint64_t values[2] = {0, 0};
    std::memcpy(values, state.data(), std::min<size_t>(sizeof values, state.numel()));
    set_current_seed(values[0]);
    offset = values[1];
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return devices; }
  DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(DeviceIndex device) const override { Guard().setDevice(Device(kDevice, device)); }
  DeviceIndex exchangeDevice(DeviceIndex device) const override {
    return Guard().exchangeDevice(Device(kDevice, device)).index();
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex device) const override { return exchangeDevice(device); }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override {
    static std::unordered_map<int, at::Generator> known;
    const int at = index < 0 ? current : index;
    auto found = known.find(at);
    if (found == known.end()) found = known.emplace(at, at::make_generator<Generator>(at)).first;
    return found->second;
  }
  at::Generator getNewGenerator(DeviceIndex index) const override {
    return at::make_generator<Generator>(index < 0 ? current : index);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::DeviceType::CPU); }
  Device getDeviceFromPtr(void*) const override { return {kDevice, current}; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto* impl = storage.unsafeGetStorageImpl();
    c10::DataPtr fresh = allocator.allocate(bytes);
    {
      std::lock_guard<std::recursive_mutex> held(lock);
      auto& used = memories.at(current).used;
      auto from = used.find(impl->data()), to = used.find(fresh.get());
      if (from != used.end() && to != used.end() && from->second->known) {  // what is known stays known
        std::memcpy(fresh.mutable_get(), impl->data(), std::min(bytes, impl->nbytes()));
        to->second->known = true;
      }
    }
    impl->set_data_ptr_noswap(std::move(fresh));
    impl->set_nbytes(bytes);
  }
};
Hooks hooks;
const bool hooked = (at::RegisterPrivateUse1HooksInterface(&hooks), true);

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
  return at::from_blob(self.data_ptr(), self.sizes(), self.strides(), self.options().device(at::kCPU).requires_grad(false));
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

using namespace taicang;
#define HELD std::lock_guard<std::recursive_mutex> held(lock)

extern "C" {
void tc_start(int count, int64_t capacity, int expandable, int huawei) {
  HELD;
  devices = count;
  vendor_huawei = huawei;
  memories.resize(count);
  for (auto& memory : memories) memory.capacity = capacity, memory.expandable = expandable;
}
void tc_elapsed(Elapsed given) { elapsed = given; }
int64_t tc_note(int64_t what, int64_t value) { return note(what, stream_now(), value); }
int64_t tc_note_on(int64_t what, int64_t stream, int64_t value) { return note(what, stream, value); }
int64_t tc_event_on(int64_t stream) {
  HELD;
  note(kRecord, stream, ++events);
  return events;
}
int64_t tc_event_here() { return tc_event_on(stream_now()); }
int64_t tc_new_stream() {
  HELD;
  return streams++;
}
int64_t tc_work(const Entry** out) {
  HELD;
  *out = work.data();
  return work.size();
}
void tc_cut(int64_t first) {
  HELD;
  if (first < int64_t(work.size())) work.resize(first);
}
int64_t tc_changes(int device, const Change** out) {
  HELD;
  *out = memories.at(device).changes.data();
  return memories.at(device).changes.size();
}
int tc_known(const void* at) {
  HELD;
  for (auto& memory : memories)
    if (auto found = memory.used.find(at); found != memory.used.end()) return found->second->known;
  return at == nullptr;
}
void tc_know(const void* at, int known) {
  HELD;
  for (auto& memory : memories)
    if (auto found = memory.used.find(at); found != memory.used.end()) found->second->known = known;
}
int64_t tc_number(const void* at) {
  HELD;
  for (auto& memory : memories)
    if (auto found = memory.used.find(at); found != memory.used.end()) return found->second->number;
  return -1;
}
void tc_memory(int device, int64_t* out) {
  HELD;
  const Memory& memory = memories.at(device);
  const int64_t values[] = {memory.allocated, memory.peak_allocated, memory.reserved, memory.peak_reserved,
                            memory.asked, memory.capacity, memory.retries, memory.ooms};
  std::memcpy(out, values, sizeof values);
}
void tc_reset_peak(int device) {
  HELD;
  Memory& memory = memories.at(device);
  memory.peak_allocated = memory.allocated;
  memory.peak_reserved = memory.reserved;
}
void tc_release(int device) {
  HELD;
  memories.at(device).release();
}
}
