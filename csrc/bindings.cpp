// Python's view of the packer: it checks arrays, keeps them alive, releases the GIL and calls.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "mapped_file.hpp"
#include "packer.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
std::span<const T> view(const Array<T>& array) {
  return {array.data(), array.size()};
}

using FixedTokens = std::pair<std::vector<std::uint32_t>, std::vector<std::uint32_t>>;

// A CorpusView and the arrays that it points into.
struct Corpus {
  tresse::CorpusView view;
  std::vector<nb::object> alive;

  // Adds the view of a language, and returns its number.
  std::size_t add_view(std::uint8_t language, int token_bytes, std::uint32_t first_id) {
    if (token_bytes != 2 && token_bytes != 4)
      throw std::invalid_argument("tokens have 2 or 4 bytes, found " + std::to_string(token_bytes));
    view.views.emplace_back(language, token_bytes, first_id);
    return view.views.size() - 1;
  }

  template <class Token>
  void add_shard(std::size_t index, Array<Token> tokens, Array<std::uint16_t> sentence_lengths,
                 Array<std::uint32_t> document_lengths, Array<std::int64_t> document_tokens,
                 Array<std::int64_t> document_sentences, Array<std::uint64_t> key_hash,
                 Array<std::uint16_t> word_lengths, Array<std::int64_t> document_words) {
    if (index >= view.views.size())
      throw std::invalid_argument("view " + std::to_string(index) + " of a language is unknown");
    const auto expected = view.views[index].token_bytes();
    if (sizeof(Token) != static_cast<std::size_t>(expected))
      throw std::invalid_argument("a shard holds tokens of " + std::to_string(sizeof(Token)) +
                                  " bytes, its language of " + std::to_string(expected));
    view.views[index].add({reinterpret_cast<const std::byte*>(tokens.data()),
                           static_cast<std::int64_t>(tokens.size()), ::view(sentence_lengths),
                           ::view(document_lengths), ::view(document_tokens),
                           ::view(document_sentences), ::view(key_hash), ::view(word_lengths),
                           ::view(document_words)});
    const auto keep = [this](const auto& array) { alive.push_back(nb::cast(array)); };
    keep(tokens), keep(sentence_lengths), keep(document_lengths);
    keep(document_tokens), keep(document_sentences), keep(key_hash);
    keep(word_lengths), keep(document_words);
  }
};

tresse::Mode parse_mode(const std::string& mode) {
  if (mode == "mono") return tresse::Mode::mono;
  if (mode == "alternate") return tresse::Mode::alternate;
  if (mode == "sample") return tresse::Mode::sample;
  throw std::invalid_argument("mode must be mono, alternate or sample, found " + mode);
}

tresse::Unit parse_unit(const std::string& unit) {
  if (unit == "sentence") return tresse::Unit::sentence;
  if (unit == "words") return tresse::Unit::words;
  if (unit == "document") return tresse::Unit::document;
  throw std::invalid_argument("unit must be sentence, words or document, found " + unit);
}

tresse::PackingMode parse_packing(const std::string& mode) {
  if (mode == "concat") return tresse::PackingMode::concat;
  if (mode == "best_fit") return tresse::PackingMode::best_fit;
  throw std::invalid_argument("packing must be concat or best_fit, found " + mode);
}

template <class T>
nb::ndarray<nb::numpy, T, nb::ndim<1>> to_numpy(std::vector<T>&& values) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return {owned->data(), {owned->size()}, owner};
}

// Views the content of a file, which stays mapped while the array lives; OSError names the file.
nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>> map_file(const nb::bytes& path) {
  try {
    auto file = std::make_unique<tresse::MappedFile>(path.c_str());
    nb::capsule owner(file.get(),
                      [](void* p) noexcept { delete static_cast<tresse::MappedFile*>(p); });
    const auto& mapped = *file.release();
    return {mapped.data(), {mapped.size()}, owner};
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path.ptr());
    throw nb::python_error();
  }
}

template <class T>
using Rows = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

class Packer {
 public:
  Packer(const Corpus& corpus, std::int64_t row_length, const std::string& mode, std::int64_t eos,
         std::int64_t bos, std::int64_t language_switch, bool mask_documents)
      : view_(&corpus.view),
        row_length_(row_length),
        packer_(corpus.view,
                {row_length, parse_packing(mode), {eos, bos, language_switch}, mask_documents}) {
    if (row_length < 1)
      throw std::invalid_argument("row_length must be at least 1, found " +
                                  std::to_string(row_length));
  }

  std::int64_t find_uneven(std::vector<std::uint8_t> views,
                           const std::vector<Array<std::int64_t>>& documents,
                           const std::string& unit, std::string table_cache_prefix) const {
    tresse::StreamSpec spec{.views = std::move(views), .mode = tresse::Mode::alternate};
    spec.unit = parse_unit(unit);
    for (const auto& column : documents) spec.documents.push_back(view(column));
    nb::gil_scoped_release release;
    const tresse::Stream stream(*view_, std::move(spec), {});
    return stream.find_uneven(tresse::TableCache(std::move(table_cache_prefix)),
                              tresse::default_threads());
  }

  std::int64_t add_stream(std::vector<std::uint8_t> views, const std::string& mode,
                          bool random_order, std::vector<std::uint64_t> thresholds,
                          std::vector<Array<std::int64_t>> documents, std::uint64_t seed,
                          std::uint64_t stage, std::uint64_t index, std::size_t num_given,
                          const std::string& unit, std::pair<std::uint64_t, std::uint64_t> words,
                          std::vector<FixedTokens> templates, std::vector<bool> counted,
                          std::int64_t targets, std::string table_cache_prefix) {
    tresse::StreamSpec spec{std::move(views),
                            parse_mode(mode),
                            random_order,
                            std::move(thresholds),
                            {},
                            seed,
                            stage,
                            index,
                            num_given,
                            parse_unit(unit),
                            words.first,
                            words.second,
                            {},
                            std::move(counted)};
    for (auto& [before, after] : templates)
      spec.templates.push_back({std::move(before), std::move(after)});
    for (const auto& column : documents) {
      spec.documents.push_back(view(column));
      alive_.push_back(nb::cast(column));
    }
    nb::gil_scoped_release release;
    return packer_.add_stream(std::move(spec), targets,
                              tresse::TableCache(std::move(table_cache_prefix)));
  }

  std::int64_t num_rows() const { return packer_.num_rows(); }

  std::int64_t num_cut(std::size_t stream) const {
    nb::gil_scoped_release release;
    return packer_.num_cut(stream);
  }

  template <class Out>
  nb::tuple fill(std::int64_t first_row, Rows<Out> tokens, Counts num_valid, int threads) {
    if (static_cast<std::int64_t>(tokens.shape(1)) != row_length_ + 1 ||
        num_valid.shape(0) != tokens.shape(0))
      throw std::invalid_argument("tokens must be [rows, " + std::to_string(row_length_ + 1) +
                                  "] and num_valid [rows]");
    if (sizeof(Out) == 2 && view_->widest_bytes() == 4)
      throw std::invalid_argument("tokens must be uint32, as tokens of the corpus are");
    tresse::Boundaries boundaries;
    {
      nb::gil_scoped_release release;
      boundaries = packer_.fill(first_row, static_cast<std::int64_t>(tokens.shape(0)),
                                {reinterpret_cast<std::byte*>(tokens.data()),
                                 static_cast<int>(sizeof(Out)), num_valid.data()},
                                threads);
    }
    return nb::make_tuple(to_numpy(std::move(boundaries.cu_seqlens)),
                          to_numpy(std::move(boundaries.span_starts)),
                          to_numpy(std::move(boundaries.span_languages)),
                          to_numpy(std::move(boundaries.span_counted)));
  }

  nb::tuple copies(std::int64_t first_row, Counts num_valid, int threads) {
    tresse::Copies found;
    {
      nb::gil_scoped_release release;
      found = packer_.copies(first_row, static_cast<std::int64_t>(num_valid.shape(0)),
                             num_valid.data(), threads);
    }
    return nb::make_tuple(to_numpy(std::move(found.copies)), to_numpy(std::move(found.cu_seqlens)));
  }

 private:
  const tresse::CorpusView* view_;
  std::int64_t row_length_;
  std::vector<nb::object> alive_;
  tresse::Packer packer_;
};

template <class Token, class Class>
void bind_add_shard(Class& corpus) {
  corpus.def("add_shard", &Corpus::add_shard<Token>, "view"_a, "tokens"_a.noconvert(),
             "sentence_lengths"_a.noconvert(), "document_lengths"_a.noconvert(),
             "document_tokens"_a.noconvert(), "document_sentences"_a.noconvert(),
             "key_hash"_a.noconvert(), "word_lengths"_a.noconvert(),
             "document_words"_a.noconvert());
}

template <class Out, class Class>
void bind_fill(Class& packer) {
  packer.def("fill", &Packer::fill<Out>, "first_row"_a, "tokens"_a.noconvert(),
             "num_valid"_a.noconvert(), "threads"_a);
}

}  // namespace

NB_MODULE(_packer, m) {
  m.doc() = "The interleaving packer (tresse.data.packing.packer), and files mapped for it.";

  nb::class_<Corpus> corpus(m, "Corpus");
  corpus.def(nb::init<>());
  corpus.def("add_view", &Corpus::add_view, "language"_a, "token_bytes"_a, "first_id"_a);
  bind_add_shard<std::uint16_t>(corpus);
  bind_add_shard<std::uint32_t>(corpus);

  nb::class_<Packer> packer(m, "Packer");
  packer.def(nb::init<const Corpus&, std::int64_t, const std::string&, std::int64_t, std::int64_t,
                      std::int64_t, bool>(),
             nb::keep_alive<1, 2>(), "corpus"_a, "row_length"_a, "mode"_a, "eos"_a, "bos"_a,
             "language_switch"_a, "mask_documents"_a);
  packer.def("find_uneven", &Packer::find_uneven, "views"_a, "documents"_a.noconvert(), "unit"_a,
             "table_cache_prefix"_a);
  packer.def("add_stream", &Packer::add_stream, "views"_a, "mode"_a, "random_order"_a,
             "thresholds"_a, "documents"_a.noconvert(), "seed"_a, "stage"_a, "index"_a,
             "num_given"_a, "unit"_a, "words"_a, "templates"_a, "counted"_a, "targets"_a,
             "table_cache_prefix"_a);
  packer.def("num_cut", &Packer::num_cut, "stream"_a);
  packer.def_prop_ro("num_rows", &Packer::num_rows);
  bind_fill<std::uint16_t>(packer);
  bind_fill<std::uint32_t>(packer);
  packer.def("copies", &Packer::copies, "first_row"_a, "num_valid"_a.noconvert(), "threads"_a);

  m.def("map_file", &map_file, "path"_a);

  // For tests, which compare them with reference.py.
  m.def("hash_words", [](const std::vector<std::uint64_t>& words) {
    std::uint64_t hash = 0;
    for (auto word : words) hash = tresse::fold(hash, word);
    return hash;
  });
  m.def("permute", [](std::uint64_t n, std::uint64_t key) {
    const tresse::Permutation permutation(n, key);
    std::vector<std::int64_t> images(n);
    for (std::uint64_t i = 0; i < n; ++i) images[i] = static_cast<std::int64_t>(permutation(i));
    return to_numpy(std::move(images));
  });
}
