// The caching allocator of a device that is not there: PyTorch's rules (512-byte blocks, 2 MB and 20 MB segments, best
// fit, splitting, merging) over address space that takes memory only where somebody writes.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

namespace taicang {

constexpr int64_t kBlock = 512, kSmall = 1 << 20, kSmallSegment = 2 << 20, kMedium = 10 << 20, kMediumSegment = 20 << 20;
constexpr int64_t kRound = 2 << 20;

struct Block {
  char* at;
  int64_t size, asked, number;
  int stream;
  bool large, used, known;
  Block *before, *after;  // neighbours in the segment
};

struct Change {  // one line of the memory log
  int64_t place;  // in the device's log of work
  int64_t number;  // of the allocation
  int64_t bytes;  // rounded; negative where it is freed
  int64_t reserved;  // by segments, afterwards
};

class Memory {
 public:
  int64_t capacity = 0, reserved = 0, allocated = 0, asked = 0, peak_allocated = 0, peak_reserved = 0;
  int64_t retries = 0, ooms = 0, next = 0;
  bool expandable = false;
  std::vector<Change> changes;
  std::unordered_map<const void*, Block*> used;

  // The block, or null where the device is full.
  Block* take(int64_t bytes, int stream, int64_t place) {
    const int64_t size = bytes < kBlock ? kBlock : (bytes + kBlock - 1) / kBlock * kBlock;
    const bool large = size > kSmall;
    Block* block = fit(size, stream, large);
    if (!block) block = grow(size, stream, large);
    if (!block) {
      ++retries;
      release();
      block = grow(size, stream, large);
    }
    if (!block) {
      ++ooms;
      return nullptr;
    }
    split(block, size);
    block->used = true;
    block->known = false;
    block->asked = bytes;
    block->number = next++;
    used[block->at] = block;
    allocated += block->size;
    asked += bytes;
    if (allocated > peak_allocated) peak_allocated = allocated;
    changes.push_back({place, block->number, block->size, reserved});
    return block;
  }

  void give(const void* at, int64_t place) {
    auto found = used.find(at);
    if (found == used.end()) return;
    Block* block = found->second;
    used.erase(found);
    allocated -= block->size;
    asked -= block->asked;
    changes.push_back({place, block->number, -block->size, reserved});
    if (block->known && block->size > 65536) madvise(block->at, block->size, MADV_DONTNEED);
    block->used = false;
    block = merge(block);
    free_.insert(key(block));
  }

  // Give segments that hold nothing back to the device (empty_cache).
  void release() {
    for (auto each = free_.begin(); each != free_.end();) {
      Block* block = std::get<4>(*each);
      if (block->before || block->after) {
        if (expandable) trim(block);
        ++each;
        continue;
      }
      each = free_.erase(each);
      reserved -= block->size - trimmed_[block];
      trimmed_.erase(block);
      munmap(block->at, block->size);
      delete block;
    }
  }

 private:
  using Key = std::tuple<bool, int, int64_t, char*, Block*>;
  std::set<Key> free_;
  std::unordered_map<Block*, int64_t> trimmed_;  // unmapped bytes of free blocks in expandable segments

  static Key key(Block* block) { return {block->large, block->stream, block->size, block->at, block}; }

  Block* fit(int64_t size, int stream, bool large) {
    auto each = free_.lower_bound({large, stream, size, nullptr, nullptr});
    if (each == free_.end() || std::get<0>(*each) != large || std::get<1>(*each) != stream) return nullptr;
    Block* block = std::get<4>(*each);
    if (auto gone = trimmed_.find(block); gone != trimmed_.end()) {  // map its pages again
      if (reserved + gone->second > capacity) return nullptr;
      reserved += gone->second;
      trimmed_.erase(gone);
    }
    free_.erase(each);
    return block;
  }

  Block* grow(int64_t size, int stream, bool large) {
    int64_t want = !large ? kSmallSegment : size < kMedium ? kMediumSegment : (size + kRound - 1) / kRound * kRound;
    if (expandable) want = large ? (size + kMediumSegment - 1) / kMediumSegment * kMediumSegment : kSmallSegment;
    if (reserved + want > capacity) return nullptr;
    void* at = mmap(nullptr, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    reserved += want;
    if (reserved > peak_reserved) peak_reserved = reserved;
    return new Block{static_cast<char*>(at), want, 0, -1, stream, large, false, false, nullptr, nullptr};
  }

  void split(Block* block, int64_t size) {
    const int64_t rest = block->size - size;
    if (block->large && !expandable ? rest <= kSmall : rest < kBlock) return;
    Block* tail = new Block{block->at + size, rest, 0, -1, block->stream, block->large, false, false, block, block->after};
    if (block->after) block->after->before = tail;
    block->after = tail;
    block->size = size;
    free_.insert(key(tail));
  }

  Block* merge(Block* block) {
    if (Block* after = block->after; after && !after->used) {
      drop(after);
      block->size += after->size;
      block->after = after->after;
      if (block->after) block->after->before = block;
      delete after;
    }
    if (Block* before = block->before; before && !before->used) {
      drop(before);
      before->size += block->size;
      before->after = block->after;
      if (before->after) before->after->before = before;
      delete block;
      return before;
    }
    return block;
  }

  void drop(Block* block) {
    free_.erase(key(block));
    if (auto gone = trimmed_.find(block); gone != trimmed_.end()) {
      reserved += gone->second;  // the merged block is mapped again as a whole
      trimmed_.erase(gone);
    }
  }

  void trim(Block* block) {
    const int64_t page = block->large ? kMediumSegment : kSmallSegment, pages = block->size / page * page;
    if (pages <= 0 || trimmed_.count(block)) return;
    trimmed_[block] = pages;
    reserved -= pages;
  }
};

}  // namespace taicang
