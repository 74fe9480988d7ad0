#include "packer.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "document_queue.hpp"
#include "parallel.hpp"

namespace tresse {
std::int64_t Packer::add_stream(StreamSpec spec, std::int64_t targets) {
  if (targets < 1) throw std::invalid_argument("a stream needs a budget of at least one target");
  auto& source = sources_.emplace_back(*corpus_, std::move(spec), packing_);
  const auto T = packing_.row_length;
  if (packing_.mode == PackingMode::best_fit) {
    const auto end = source.best_fit.extend(targets);
    source.num_rows = end.num_rows;
    source.last_num_valid = end.last_num_valid;
  } else {
    const auto last =
        packing_.mask_documents ? source.timeline.last_inner_target(targets) : targets;
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
  if (first < 0 || num_rows < 0 || threads < 1)
    throw std::invalid_argument("fill needs first_row >= 0, num_rows >= 0 and threads >= 1");
  if (num_rows * (packing_.row_length + 1) > INT32_MAX)
    throw std::invalid_argument("a batch of " + std::to_string(num_rows) + " rows of " +
                                std::to_string(packing_.row_length) +
                                " tokens is too large for int32 boundaries; fill fewer rows");
  const auto parts = static_cast<int>(std::clamp<std::int64_t>(num_rows, 1, threads));
  std::vector<Notes> notes(parts);
  std::vector<RowNotes> rows(num_rows);
  const auto run = [this](int parts, const auto& work) { workers_.run(parts, work); };
  parallel_parts(num_rows, parts, run, [&](int part, std::int64_t begin, std::int64_t end) {
    if (corpus_->token_bytes == 4)
      fill_part<std::uint32_t, std::uint32_t>(first, begin, end, destination, notes[part], rows);
    else if (destination.token_bytes == 4)
      fill_part<std::uint16_t, std::uint32_t>(first, begin, end, destination, notes[part], rows);
    else
      fill_part<std::uint16_t, std::uint16_t>(first, begin, end, destination, notes[part], rows);
  });
  return join(rows);
}

template <class In, class Out>
void Packer::fill_part(std::int64_t first, std::int64_t begin, std::int64_t end,
                       const Destination& destination, Notes& notes, std::span<RowNotes> rows) {
  std::vector<Task> tasks(sources_.size());
  notes.spans.reserve((end - begin) * 64);
  for (auto slot = begin; slot < end; ++slot) {
    if (first + slot < num_rows()) {
      const auto [stream, row] = mixture_.slot(first + slot);
      if (tasks[stream].slots.empty()) tasks[stream].first_row = row;
      tasks[stream].slots.push_back(slot);
      continue;
    }
    RowWriter<In, Out> writer(packing_.row_length, packing_.specials, notes);
    writer.begin(row_of<Out>(destination, slot));
    writer.pad();
    destination.num_valid[slot] = 0;
    rows[slot] = writer.end();
  }
  for (std::size_t k = 0; k < tasks.size(); ++k) {
    if (tasks[k].slots.empty()) continue;
    if (packing_.mode == PackingMode::concat)
      fill_concat<In, Out>(sources_[k], tasks[k], destination, notes, rows);
    else
      fill_best_fit<In, Out>(sources_[k], tasks[k], destination, notes, rows);
  }
}

template <class In, class Out>
void Packer::fill_concat(Source& source, const Task& task, const Destination& destination,
                         Notes& notes, std::span<RowNotes> rows) {
  const auto T = packing_.row_length;
  const auto start = source.timeline.locate(task.first_row * T);
  DocumentQueue queue(source.stream, EndlessVisits(source.stream, start.epoch, start.position));
  RunReader reader;
  reader.open(queue.next());
  reader.skip(start.offset);
  RowWriter<In, Out> writer(T, packing_.specials, notes);
  auto row = task.first_row;
  for (auto slot : task.slots) {
    auto* out = row_of<Out>(destination, slot);
    row == task.first_row ? writer.begin(out) : writer.begin_with_last(out);
    while (writer.room() > 0) {
      if (reader.done()) {
        reader.open(queue.next());
        writer.begin_document();
      }
      writer.write(reader, writer.room());
    }
    const auto limit = T - (packing_.mask_documents && writer.begins_at_end());
    destination.num_valid[slot] =
        static_cast<std::int32_t>(std::min(limit, valid_limit(source, row)));
    rows[slot] = writer.end();
    ++row;
  }
  // The next row begins with the last token of this one.
  const auto& last = reader.document();
  source.timeline.remember(row * T, {last.keys.epoch, last.position, reader.passed() - 1});
}

template <class In, class Out>
void Packer::fill_best_fit(Source& source, const Task& task, const Destination& destination,
                           Notes& notes, std::span<RowNotes> rows) {
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
  DocumentQueue queue(source.stream, ListedVisits(visits));
  RunReader reader;
  RowWriter<In, Out> writer(T, packing_.specials, notes);
  for (std::size_t i = 0; i < task.slots.size(); ++i) {
    writer.begin(row_of<Out>(destination, task.slots[i]));
    for (const auto& piece : packed[i].layout->row(packed[i].index)) {
      reader.open(queue.next());
      reader.skip(piece.offset);
      writer.begin_document();
      writer.write(reader, piece.length);
    }
    const auto used = T + 1 - writer.room();
    const auto limit = used - 1 - (packing_.mask_documents && writer.begins_at_end());
    const auto valid =
        std::min(limit, valid_limit(source, task.first_row + static_cast<std::int64_t>(i)));
    destination.num_valid[task.slots[i]] = static_cast<std::int32_t>(valid);
    if (writer.room() > 0) writer.pad();
    rows[task.slots[i]] = writer.end();
  }
}

// Rows were noted stream by stream; here they get their order in the batch.
Boundaries Packer::join(std::span<const RowNotes> rows) const {
  const auto T = packing_.row_length;
  const auto num_rows = static_cast<std::int64_t>(rows.size());
  Boundaries joined;
  for (std::int64_t slot = 0; slot < num_rows; ++slot) {
    const auto& row = rows[slot];
    const auto& from = *row.notes;
    joined.cu_seqlens.push_back(static_cast<std::int32_t>(slot * T));
    for (auto i = row.first_cut; i < row.first_cut + row.num_cuts; ++i)
      joined.cu_seqlens.push_back(static_cast<std::int32_t>(slot * T) + from.cuts[i]);
    for (auto i = row.first_span; i < row.first_span + row.num_spans; ++i) {
      joined.span_starts.push_back(static_cast<std::int32_t>(slot * (T + 1)) +
                                   from.spans[i].column);
      joined.span_languages.push_back(from.spans[i].language);
    }
  }
  joined.cu_seqlens.push_back(static_cast<std::int32_t>(num_rows * T));
  joined.span_starts.push_back(static_cast<std::int32_t>(num_rows * (T + 1)));
  return joined;
}

}  // namespace tresse
