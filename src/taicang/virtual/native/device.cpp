// The virtual device: what PyTorch asks of an accelerator (allocator, streams, events, generators, tensors that are
// views) without one. No Python in here, so that no exception of Python crosses a function that must not throw. The
// kernels themselves are in Python, behind the fallback of the same dispatch key.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstring>
#include <iomanip>
#include <mutex>
#include <sstream>
#include <unordered_set>

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

void there(int device) {
  TORCH_CHECK(device < devices, "CUDA error: invalid device ordinal ", device, " (the program sees ", devices, ")");
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (!bytes) return {nullptr, nullptr, &release, Device(kDevice, current)};
    std::lock_guard<std::recursive_mutex> held(lock);
    there(current);
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

std::unordered_set<const void*> pins;
void unpin(void* at) {
  std::lock_guard<std::recursive_mutex> held(lock);
  pins.erase(at);
  c10::GetAllocator(c10::DeviceType::CPU)->raw_deallocate(at);
}
struct Pinned final : c10::Allocator {  // memory of the host that copies need not wait for
  c10::DataPtr allocate(size_t bytes) override {
    void* at = c10::GetAllocator(c10::DeviceType::CPU)->raw_allocate(bytes);
    std::lock_guard<std::recursive_mutex> held(lock);
    if (at) pins.insert(at);
    return {at, at, &unpin, Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &unpin; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
Pinned pinned;

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
    there(device.index());
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
  // Of the interface from PyTorch 2.10 on, so it says no "override".
  void* getStreamNativeHandle(const Stream stream) const { return reinterpret_cast<void*>(stream.id()); }
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
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
  bool isPinnedPtr(const void* at) const override {
    std::lock_guard<std::recursive_mutex> held(lock);
    return pins.count(at);
  }
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

}  // namespace taicang

#include "operators.h"
#include "sparse.h"

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
