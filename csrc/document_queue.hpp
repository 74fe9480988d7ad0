#pragma once
// Documents in the order that they are packed, prepared while earlier ones are being copied.

#include <array>
#include <cstdint>
#include <span>

#include "stream.hpp"

namespace tresse {

// A document to be packed; with best_fit, perhaps only a part of it.
struct Visit {
  std::int64_t document;
  EpochKeys keys;
};

// An endless sequence of documents: starts at a position of an epoch and continues with the next.
class EndlessVisits {
 public:
  EndlessVisits(const Stream& stream, std::int64_t epoch, std::int64_t position)
      : stream_(&stream),
        keys_(stream.keys(epoch)),
        order_(stream.order(epoch)),
        position_(position) {}

  // Sets the document's index and keys. Returns true, as there is always another document.
  bool next(Document& document) {
    if (read_ == mapped_) map();
    document.position = position_ - mapped_ + read_;
    document.index = documents_[read_++];
    document.keys = keys_;
    return true;
  }

 private:
  void map() {
    if (position_ == stream_->num_documents()) {
      keys_ = stream_->keys(keys_.epoch + 1);
      order_ = stream_->order(keys_.epoch);
      position_ = 0;
    }
    mapped_ = std::min<std::int64_t>(documents_.size(), stream_->num_documents() - position_);
    order_.map(position_, std::span(documents_).first(mapped_));
    position_ += mapped_;
    read_ = 0;
  }

  const Stream* stream_;
  EpochKeys keys_;
  Permutation order_;
  std::array<std::int64_t, 16> documents_;
  std::int64_t position_;  // of the next document to map
  std::int64_t mapped_ = 0, read_ = 0;
};

// The documents of a list.
class ListedVisits {
 public:
  explicit ListedVisits(std::span<const Visit> visits) : visits_(visits) {}

  // Sets the document's index and keys; false at the end of the list.
  bool next(Document& document) {
    if (visits_.empty()) return false;
    document.index = visits_.front().document;
    document.keys = visits_.front().keys;
    visits_ = visits_.subspan(1);
    return true;
  }

 private:
  std::span<const Visit> visits_;
};

// A ring of documents in different states of preparation, so that the cache misses of several
// documents overlap. Each thread reuses the memory of one ring, so it may have one queue at a time.
template <class Visits>
class DocumentQueue {
 public:
  DocumentQueue(const Stream& stream, Visits visits, bool reads_tokens)
      : stream_(&stream), visits_(visits), reads_tokens_(reads_tokens), ring_(thread_ring()) {}

  // Returns the next document with its runs; valid until the next call.
  const Document& next() {
    while (found_ <= current_ + kFindAhead && find(ring_[found_ % kSize])) ++found_;
    for (; located_ <= current_ + kLocateAhead && located_ < found_; ++located_)
      stream_->locate(ring_[located_ % kSize]);
    for (; opened_ <= current_ + kOpenAhead && opened_ < found_; ++opened_) {
      stream_->open(ring_[opened_ % kSize]);
      if (reads_tokens_) stream_->prefetch_tokens(ring_[opened_ % kSize]);
    }
    for (; expanded_ <= current_ + kExpandAhead && expanded_ < found_; ++expanded_)
      stream_->expand(ring_[expanded_ % kSize]);
    return ring_[current_++ % kSize];
  }

 private:
  static constexpr std::uint64_t kSize = 16;
  static constexpr std::uint64_t kFindAhead = 12, kLocateAhead = 9, kOpenAhead = 6,
                                 kExpandAhead = 3;

  static std::span<Document, kSize> thread_ring() {
    thread_local std::array<Document, kSize> ring;
    return ring;
  }

  bool find(Document& document) {
    // Visits write into the document: a copy would be read before the store queue has drained.
    if (!visits_.next(document)) return false;
    stream_->find(document);
    return true;
  }

  const Stream* stream_;
  Visits visits_;
  bool reads_tokens_;
  std::span<Document, kSize> ring_;
  std::uint64_t current_ = 0, found_ = 0, located_ = 0, opened_ = 0, expanded_ = 0;
};

}  // namespace tresse
