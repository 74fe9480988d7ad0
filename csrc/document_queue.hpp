#pragma once
// Documents in the order they are packed, made ready while earlier ones are still being copied.

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "stream.hpp"

namespace tresse {

// A document, or the part of one that best_fit puts into a row.
struct Visit {
  std::int64_t epoch, position;  // in the epoch's order
};

// The visits of a concat stream never end, those of best_fit are listed.
class Itinerary {
 public:
  Itinerary(std::int64_t num_documents, Visit first) : num_documents_(num_documents), next_(first) {}
  explicit Itinerary(std::span<const Visit> visits) : visits_(visits) {}

  std::optional<Visit> next() {
    if (num_documents_ > 0) {
      const auto visit = next_;
      if (++next_.position == num_documents_) next_ = {next_.epoch + 1, 0};
      return visit;
    }
    if (visits_.empty()) return std::nullopt;
    const auto visit = visits_.front();
    visits_ = visits_.subspan(1);
    return visit;
  }

 private:
  std::int64_t num_documents_ = 0;
  Visit next_{};
  std::span<const Visit> visits_;
};

// A ring of documents in different states of readiness, so that the cache misses of several overlap.
class DocumentQueue {
 public:
  DocumentQueue(const Stream& stream, Itinerary itinerary)
      : stream_(&stream), itinerary_(itinerary) {}

  // The next document with its runs; valid until the next call.
  Document& next() {
    advance();
    return ring_[current_++ % kSize];
  }

 private:
  static constexpr std::int64_t kSize = 16;
  static constexpr std::int64_t kFindAhead = 8, kLocateAhead = 6, kOpenAhead = 4, kExpandAhead = 2;

  void advance() {
    while (found_ <= current_ + kFindAhead && find(ring_[found_ % kSize])) ++found_;
    for (; located_ <= current_ + kLocateAhead && located_ < found_; ++located_)
      stream_->locate(ring_[located_ % kSize]);
    for (; opened_ <= current_ + kOpenAhead && opened_ < found_; ++opened_)
      stream_->open(ring_[opened_ % kSize]);
    for (; expanded_ <= current_ + kExpandAhead && expanded_ < found_; ++expanded_)
      stream_->expand(*epochs_[expanded_ % kSize], ring_[expanded_ % kSize]);
  }

  bool find(Document& document) {
    const auto visit = itinerary_.next();
    if (!visit) return false;
    if (!epoch_ || epoch_->number != visit->epoch) epoch_ = stream_->epoch(visit->epoch);
    epochs_[found_ % kSize] = epoch_;
    stream_->find(*epoch_, visit->position, document);
    return true;
  }

  const Stream* stream_;
  Itinerary itinerary_;
  std::array<Document, kSize> ring_;
  std::array<std::optional<Epoch>, kSize> epochs_;
  std::optional<Epoch> epoch_;
  std::int64_t current_ = 0, found_ = 0, located_ = 0, opened_ = 0, expanded_ = 0;
};

}  // namespace tresse
