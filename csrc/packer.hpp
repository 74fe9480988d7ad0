#pragma once
// The rows of a training stage: the stream of each row and its tokens. Knows no Python.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "best_fit.hpp"
#include "corpus_view.hpp"
#include "mixing.hpp"
#include "parallel.hpp"
#include "row_writer.hpp"
#include "stream.hpp"
#include "table_cache.hpp"
#include "timeline.hpp"

namespace tresse {

enum class PackingMode { concat, best_fit };

struct PackingSpec {
  std::int64_t row_length = 0;  // T: inputs of a row, which holds T + 1 tokens
  PackingMode mode = PackingMode::concat;
  Specials specials;
  bool mask_documents = false;  // a label that begins a document does not count
};

// Memory of the caller for rows: tokens [num_rows, T + 1], num_valid [num_rows].
struct Destination {
  std::byte* tokens;
  int token_bytes;  // 2 or 4, enough for every id
  std::int32_t* num_valid;
};

// Boundaries in a batch of B rows.
struct Boundaries {
  // Offsets into the B * T inputs where a row, a document or padding begins, and their end.
  std::vector<std::int32_t> cu_seqlens;
  // Offsets into the B * (T + 1) tokens where a row or a language begins, or where tokens begin or
  // cease to be targets, and their end.
  std::vector<std::int32_t> span_starts;
  std::vector<std::uint8_t> span_languages;
  std::vector<std::uint8_t> span_counted;  // 1 for targets
};

// A batch of B rows as copies from the pool, which cover its B * (T + 1) tokens in order.
struct Copies {
  // [num_copies, 2]: source (see Copy), and start in the batch + language * 2^32 + begins * 2^40 +
  // (not counted) * 2^41.
  std::vector<std::int64_t> copies;
  std::vector<std::int32_t> cu_seqlens;  // as in Boundaries
};

class Packer {
 public:
  // The corpus must outlive the packer, and no shard may be added to it.
  Packer(const CorpusView& corpus, PackingSpec packing)
      : corpus_(&corpus), pool_(corpus), packing_(packing) {}
  Packer(const Packer&) = delete;
  Packer& operator=(const Packer&) = delete;

  // Adds the rows of a stream that hold `targets` counted labels, and returns their number. The
  // cache's prefix must belong to this stream of this corpus with these specials alone.
  std::int64_t add_stream(StreamSpec spec, std::int64_t targets, TableCache cache);

  std::int64_t num_rows() const noexcept { return mixture_.num_rows(); }

  // Returns the number of documents of a stream that are longer than a row, in its first epoch. It
  // is cached.
  std::int64_t num_cut(std::size_t stream) const;

  // Writes `num_rows` rows from row `first`; the bytes do not depend on the number of threads. Rows
  // past the end are zero and have no valid label. Several threads may call it at once.
  Boundaries fill(std::int64_t first, std::int64_t num_rows, Destination destination, int threads);

  // Returns the places of the tokens of those rows instead of copying them; writes num_valid.
  Copies copies(std::int64_t first, std::int64_t num_rows, std::int32_t* num_valid, int threads);

 private:
  struct Source {
    Source(const CorpusView& corpus, StreamSpec spec, const PackingSpec& packing,
           TableCache table_cache)
        : stream(corpus, std::move(spec), packing.specials),
          cache(std::move(table_cache)),
          timeline(stream, packing.mask_documents, cache),
          best_fit(stream, cache, packing.row_length + 1, packing.mask_documents) {}

    Stream stream;
    TableCache cache;
    Timeline timeline;
    BestFitRows best_fit;
    std::int64_t num_rows = 0, last_num_valid = 0;
  };
  // Rows of one stream that a thread packs: consecutive in the stream, at any slots of the batch.
  struct Task {
    std::int64_t first_row = 0;
    std::vector<std::int64_t> slots;
  };

  // The notes of the threads, and of each row.
  struct Packed {
    std::vector<Notes> notes;
    std::vector<RowNotes> rows;
  };

  // make_sink(notes) returns the sink for the RowWriter of a thread: a Copier or a Locator.
  template <class MakeSink>
  Packed pack(std::int64_t first, std::int64_t num_rows, std::int32_t* num_valid, int threads,
              const MakeSink& make_sink);
  template <class Sink>
  void pack_part(std::int64_t first, std::int64_t begin, std::int64_t end, const Sink& sink,
                 std::int32_t* num_valid, Notes& notes, std::span<RowNotes> rows);
  template <class Sink>
  void pack_concat(Source& source, const Task& task, RowWriter<Sink> writer,
                   std::int32_t* num_valid, std::span<RowNotes> rows);
  template <class Sink>
  void pack_best_fit(Source& source, const Task& task, RowWriter<Sink> writer,
                     std::int32_t* num_valid, std::span<RowNotes> rows);
  std::int64_t valid_limit(const Source& source, std::int64_t row) const noexcept;
  std::vector<std::int32_t> join_cuts(std::span<const RowNotes> rows) const;
  Boundaries join(std::span<const RowNotes> rows) const;
  Copies join_copies(std::span<const RowNotes> rows) const;

  const CorpusView* corpus_;
  Pool pool_;
  PackingSpec packing_;
  std::deque<Source> sources_;  // a deque, so that their addresses stay
  Mixture mixture_;
  Workers workers_;
};

}  // namespace tresse
