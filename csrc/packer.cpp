#include "packer.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "document_queue.hpp"
#include "parallel.hpp"

namespace tresse {

std::int64_t Packer::add_stream(StreamSpec spec, std::int64_t targets, TableCache cache) {
  if (targets < 1) throw std::invalid_argument("a stream needs a budget of at least one target");
  auto& source = sources_.emplace_back(*corpus_, std::move(spec), packing_, std::move(cache));
  const auto T = packing_.row_length;
  if (packing_.mode == PackingMode::best_fit) {
    const auto end = source.best_fit.extend(targets);
    source.num_rows = end.num_rows;
    source.last_num_valid = end.last_num_valid;
  } else {
    const auto last = source.timeline.last_target(targets);
    source.num_rows = (last - 1) / T + 1;
    source.last_num_valid = last - (source.num_rows - 1) * T;
  }
  mixture_.add(source.num_rows);
  return source.num_rows;
}

std::int64_t Packer::valid_limit(const Source& source, std::int64_t row) const noexcept {
  return row + 1 == source.num_rows ? source.last_num_valid : packing_.row_length;
}

Boundaries Packer::fill(std::int64_t first, std::int64_t num_rows, Destination destination,
                        int threads) {
  const auto pack_with = [&](const auto& copy) {
    const Copier sink(destination.tokens, packing_.row_length + 1, packing_.specials, copy);
    return join(
        pack(first, num_rows, destination.num_valid, threads, [&](Notes&) { return sink; }).rows);
  };
  const bool wide = destination.token_bytes == 4;
  const auto bytes = corpus_->common_bytes();
  if (bytes == 2 && wide) return pack_with(SameTokens<std::uint16_t, std::uint32_t>());
  if (bytes == 2) return pack_with(SameTokens<std::uint16_t, std::uint16_t>());
  if (bytes == 4 && wide) return pack_with(SameTokens<std::uint32_t, std::uint32_t>());
  if (wide) return pack_with(JoinedTokens<std::uint32_t>(*corpus_));
  return pack_with(JoinedTokens<std::uint16_t>(*corpus_));
}

std::int64_t Packer::num_cut(std::size_t index) const {
  constexpr std::size_t kBlock = 4096;
  const auto& stream = sources_.at(index).stream;
  const auto& cache = sources_.at(index).cache;
  const auto name = "longer-" + std::to_string(packing_.row_length);
  if (const auto known = cache.load(name); known.size() == 1) return known[0];
  const auto keys = stream.keys(0);
  const auto size = stream.num_documents();
  const auto threads = size < 4096 ? 1 : default_threads();
  std::vector<std::int64_t> found(threads, 0);
  parallel_parts(size, threads, spawn, [&](int part, std::int64_t begin, std::int64_t end) {
    std::vector<std::int64_t> documents, lengths;
    for (auto first = begin; first < end; first += kBlock) {
      documents.resize(std::min<std::size_t>(kBlock, end - first));
      lengths.resize(documents.size());
      std::iota(documents.begin(), documents.end(), first);
      stream.lengths(keys, documents, lengths);
      for (const auto length : lengths) found[part] += length > packing_.row_length + 1;
    }
  });
  const auto cut = std::accumulate(found.begin(), found.end(), std::int64_t{0});
  cache.store(name, std::vector{cut});
  return cut;
}

Copies Packer::copies(std::int64_t first, std::int64_t num_rows, std::int32_t* num_valid,
                      int threads) {
  return join_copies(pack(first, num_rows, num_valid, threads, [&](Notes& notes) {
                       return Locator(pool_, packing_.row_length + 1, packing_.specials, notes);
                     }).rows);
}

template <class MakeSink>
Packer::Packed Packer::pack(std::int64_t first, std::int64_t num_rows, std::int32_t* num_valid,
                            int threads, const MakeSink& make_sink) {
  if (first < 0 || num_rows < 0 || threads < 1)
    throw std::invalid_argument("a batch needs first_row >= 0, num_rows >= 0 and threads >= 1");
  if (num_rows * (packing_.row_length + 1) > INT32_MAX)
    throw std::invalid_argument("a batch of " + std::to_string(num_rows) + " rows of " +
                                std::to_string(packing_.row_length) +
                                " tokens is too large for int32 boundaries; take fewer rows");
  const auto parts = static_cast<int>(std::clamp<std::int64_t>(num_rows, 1, threads));
  Packed packed{std::vector<Notes>(parts), std::vector<RowNotes>(num_rows)};
  const auto run = [this](int parts, const auto& work) { workers_.run(parts, work); };
  parallel_parts(num_rows, parts, run, [&](int part, std::int64_t begin, std::int64_t end) {
    auto& notes = packed.notes[part];
    pack_part(first, begin, end, make_sink(notes), num_valid, notes, packed.rows);
  });
  return packed;
}

template <class Sink>
void Packer::pack_part(std::int64_t first, std::int64_t begin, std::int64_t end, const Sink& sink,
                       std::int32_t* num_valid, Notes& notes, std::span<RowNotes> rows) {
  std::vector<Task> tasks(sources_.size());
  notes.spans.reserve((end - begin) * 64);
  const RowWriter<Sink> writer(packing_.row_length, sink, notes);
  for (auto slot = begin; slot < end; ++slot) {
    if (first + slot < num_rows()) {
      const auto [stream, row] = mixture_.slot(first + slot);
      if (tasks[stream].slots.empty()) tasks[stream].first_row = row;
      tasks[stream].slots.push_back(slot);
      continue;
    }
    auto empty = writer;
    empty.begin(slot);
    empty.pad();
    num_valid[slot] = 0;
    rows[slot] = empty.end();
  }
  for (std::size_t k = 0; k < tasks.size(); ++k) {
    if (tasks[k].slots.empty()) continue;
    if (packing_.mode == PackingMode::concat)
      pack_concat(sources_[k], tasks[k], writer, num_valid, rows);
    else
      pack_best_fit(sources_[k], tasks[k], writer, num_valid, rows);
  }
}

template <class Sink>
void Packer::pack_concat(Source& source, const Task& task, RowWriter<Sink> writer,
                         std::int32_t* num_valid, std::span<RowNotes> rows) {
  const auto T = packing_.row_length;
  const auto start = source.timeline.locate(task.first_row * T);
  DocumentQueue queue(source.stream, EndlessVisits(source.stream, start.epoch, start.position),
                      Sink::kReadsTokens);
  RunReader reader;
  reader.open(queue.next());
  reader.skip(start.offset);
  auto row = task.first_row;
  for (auto slot : task.slots) {
    row == task.first_row ? writer.begin(slot) : writer.begin_with_last(slot);
    while (writer.room() > 0) {
      if (reader.done()) {
        reader.open(queue.next());
        writer.begin_document();
      }
      writer.write(reader, writer.room());
    }
    const auto limit = T - (packing_.mask_documents && writer.begins_at_end());
    num_valid[slot] = static_cast<std::int32_t>(std::min(limit, valid_limit(source, row)));
    rows[slot] = writer.end();
    ++row;
  }
  // The next row begins with the last token of this one.
  const auto& last = reader.document();
  source.timeline.remember(row * T, {last.keys.epoch, last.position, reader.passed() - 1});
}

template <class Sink>
void Packer::pack_best_fit(Source& source, const Task& task, RowWriter<Sink> writer,
                           std::int32_t* num_valid, std::span<RowNotes> rows) {
  const auto T = packing_.row_length;
  std::vector<BestFitRows::Row> packed;
  std::vector<Visit> visits;
  for (std::size_t i = 0; i < task.slots.size(); ++i) {
    packed.push_back(source.best_fit.row(task.first_row + static_cast<std::int64_t>(i)));
    const auto& row = packed.back();
    const auto keys = source.stream.keys(row.epoch);
    for (const auto& piece : row.layout->row(row.index))
      visits.push_back({row.layout->documents[piece.item], keys});
  }
  DocumentQueue queue(source.stream, ListedVisits(visits), Sink::kReadsTokens);
  RunReader reader;
  for (std::size_t i = 0; i < task.slots.size(); ++i) {
    writer.begin(task.slots[i]);
    for (const auto& piece : packed[i].layout->row(packed[i].index)) {
      reader.open(queue.next());
      reader.skip(piece.offset);
      writer.begin_document();
      if (writer.write(reader, piece.length) > 0)
        throw_contradiction("a document is shorter than its length");
    }
    const auto used = T + 1 - writer.room();
    const auto limit = used - 1 - (packing_.mask_documents && writer.begins_at_end());
    const auto valid =
        std::min(limit, valid_limit(source, task.first_row + static_cast<std::int64_t>(i)));
    num_valid[task.slots[i]] = static_cast<std::int32_t>(valid);
    if (writer.room() > 0) writer.pad();
    rows[task.slots[i]] = writer.end();
  }
}

// Threads noted the rows stream by stream; here they are joined in the order of the batch.
std::vector<std::int32_t> Packer::join_cuts(std::span<const RowNotes> rows) const {
  const auto T = packing_.row_length;
  std::vector<std::int32_t> cu_seqlens;
  std::int32_t begin = 0;
  for (const auto& row : rows) {
    cu_seqlens.push_back(begin);
    for (auto cut : std::span(row.notes->cuts).subspan(row.first_cut, row.num_cuts))
      cu_seqlens.push_back(begin + cut);
    begin += static_cast<std::int32_t>(T);
  }
  cu_seqlens.push_back(begin);
  return cu_seqlens;
}

Boundaries Packer::join(std::span<const RowNotes> rows) const {
  const auto size = static_cast<std::int32_t>(packing_.row_length + 1);
  Boundaries joined{join_cuts(rows), {}, {}, {}};
  std::int32_t begin = 0;
  for (const auto& row : rows) {
    for (const auto& span : std::span(row.notes->spans).subspan(row.first_span, row.num_spans)) {
      joined.span_starts.push_back(begin + span.column);
      joined.span_languages.push_back(span.language);
      joined.span_counted.push_back(span.counted);
    }
    begin += size;
  }
  joined.span_starts.push_back(begin);
  return joined;
}

Copies Packer::join_copies(std::span<const RowNotes> rows) const {
  Copies joined{{}, join_cuts(rows)};
  std::int64_t begin = 0;
  for (const auto& row : rows) {
    for (const auto& copy : std::span(row.notes->copies).subspan(row.first_copy, row.num_copies)) {
      joined.copies.push_back(copy.source);
      joined.copies.push_back((begin + copy.column) | std::int64_t{copy.language} << 32 |
                              std::int64_t{copy.begins} << 40 |
                              std::int64_t{!copy.counted} << 41);
    }
    begin += packing_.row_length + 1;
  }
  return joined;
}

}  // namespace tresse
