#pragma once
// Finds a token of an endless stream: its epoch, its document and its offset in the document.

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parallel.hpp"
#include "stream.hpp"
#include "table_cache.hpp"

namespace tresse {

struct Location {
  std::int64_t epoch, position;  // of the document, in the epoch's order
  std::int64_t offset;           // of the token, in the document
};

// The number of tokens before every 64th document of an epoch's order, and in the whole epoch.
class EpochTable {
 public:
  static constexpr std::int64_t kStride = 64;

  // Loads the table from the cache, or builds and stores it.
  EpochTable(const Stream& stream, std::int64_t epoch, bool mask_documents,
             const TableCache& cache, int threads);

  std::int64_t num_tokens() const noexcept { return cumulative_.back(); }
  // Returns the number of targets, if the stream does not count all tokens. Masked documents do not
  // count their first tokens.
  std::int64_t num_targets() const noexcept { return targets_.back(); }
  // Returns the place of a token of the epoch.
  Location locate(std::int64_t token) const;
  // Returns the n-th token of the epoch that does not begin a document; n counts from 1.
  std::int64_t inner_token(std::int64_t n) const;
  // Returns the n-th target of the epoch; n counts from 1. For streams that do not count all.
  std::int64_t target(std::int64_t n) const;

 private:
  using Sum = std::int64_t (EpochTable::*)(std::int64_t stride) const;
  // Returns the sums before each stride and of all, from the cache or by adding `sum` of each.
  std::vector<std::int64_t> cumulate(const std::string& name, Sum sum, bool is_positive,
                                     const TableCache& cache, int threads) const;
  bool is_of_stream(std::span<const std::int64_t> cumulative, Sum sum, bool is_positive) const;
  // Returns the number of targets in the documents of a stride.
  std::int64_t sum_targets(std::int64_t stride) const;
  std::int64_t num_strides() const noexcept;
  // Returns the position after the last document of a stride.
  std::int64_t end_of(std::int64_t stride) const noexcept;
  // Returns the number of tokens in the documents of a stride.
  std::int64_t sum(std::int64_t stride) const;
  // Writes the lengths of documents, starting at a position, until `lengths` or the epoch is full.
  std::span<const std::int64_t> measure(std::int64_t first, std::span<std::int64_t> lengths) const;

  const Stream* stream_;
  EpochKeys keys_;
  Permutation order_;
  bool mask_documents_;
  std::vector<std::int64_t> cumulative_;
  std::vector<std::int64_t> targets_;  // empty where all tokens count
};

// All epochs, one after the other. Several threads may use it.
class Timeline {
 public:
  Timeline(const Stream& stream, bool mask_documents, const TableCache& cache)
      : stream_(&stream), mask_documents_(mask_documents), cache_(&cache) {}

  Location locate(std::int64_t token);
  // Notes the place of a token, so that the next `locate` of it need not search.
  void remember(std::int64_t token, Location location);
  // Returns the smallest N such that `targets` of the labels 1 to N count.
  std::int64_t last_target(std::int64_t targets);

 private:
  using Table = std::shared_ptr<const EpochTable>;
  using Measure = std::function<std::int64_t(std::int64_t epoch)>;
  struct Span {
    std::int64_t epoch, rest, start;
  };

  Table table(std::int64_t epoch);
  void build_ahead(std::int64_t epoch);
  // The sums of epochs; with a period of 1 all epochs have that of the first.
  using Sums = std::map<std::int64_t, std::int64_t>;
  std::int64_t sum(Sums& known, std::int64_t epoch, std::int64_t period,
                   std::int64_t (EpochTable::*of)() const noexcept);
  std::int64_t num_tokens(std::int64_t epoch) {
    return sum(num_tokens_, epoch, stream_->length_period(), &EpochTable::num_tokens);
  }
  std::int64_t num_targets(std::int64_t epoch) {
    return sum(num_targets_, epoch, stream_->target_period(), &EpochTable::num_targets);
  }
  Span find_epoch(std::int64_t amount, std::int64_t period, const Measure& measure);

  const Stream* stream_;
  bool mask_documents_;
  const TableCache* cache_;
  std::mutex mutex_;
  std::map<std::int64_t, std::shared_future<Table>> tables_;
  Sums num_tokens_, num_targets_;
  std::deque<std::pair<std::int64_t, Location>> remembered_;
  std::atomic<bool> building_ahead_{false};
  std::optional<Thread> ahead_;  // last member: the thread is joined before other members end
};

}  // namespace tresse
