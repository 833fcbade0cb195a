#include "satrap/embedding_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <functional>
#include <string>
#include <system_error>

#include "file_window.h"
#include "satrap/id_kernels.h"

namespace satrap {
namespace {

static_assert(std::endian::native == std::endian::little, "the files are read as they lie");

constexpr std::size_t kHeaderBytes = 28;
constexpr std::size_t kNodeBytes = 9;
constexpr std::size_t kLiveOffset = 8;                                     // of the flag in a node
constexpr std::size_t kValuesOffset = kNodeBytes + sizeof(std::uint32_t);  // of the values in a live node
constexpr std::size_t kFixedBytes = kValuesOffset + sizeof(std::uint64_t) * 2;  // a live node without values

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

struct Header {
  std::uint64_t count;
  std::uint32_t first;
  std::uint32_t last;
  std::uint32_t nodes;
};

struct LiveNode {
  std::uint32_t index;  // 1-based, as the links count
  std::uint32_t next;
  std::uint32_t inner_len;
  std::uint32_t dim;
  std::uint64_t sign;
  const std::byte* values;  // inner_len floats, unaligned; valid until the window lets go
};

std::size_t live_node_bytes(std::size_t inner_len) { return kFixedBytes + inner_len * sizeof(float); }

// `at` is a live node of the given inner_len.
LiveNode live_node(const std::byte* at, std::uint32_t index, std::uint32_t inner_len) {
  const std::byte* const tail = at + kValuesOffset + std::size_t{inner_len} * sizeof(float);
  return {index,
          load<std::uint32_t>(at),
          inner_len,
          static_cast<std::uint32_t>(load<std::uint64_t>(tail)),
          load<std::uint64_t>(tail + 8),
          at + kValuesOffset};
}

Header read_header(FileWindow& window) {
  const std::size_t size = window.file_size();
  if (size < kHeaderBytes) {
    throw DecodeError("the file ends inside its header of " + std::to_string(kHeaderBytes) + " bytes", size,
                      "header");
  }
  const std::byte* const at = window.reach(0, kHeaderBytes);
  const Header header{load<std::uint64_t>(at), load<std::uint32_t>(at + 8), load<std::uint32_t>(at + 12),
                      load<std::uint32_t>(at + 24)};
  if (header.nodes > (size - kHeaderBytes) / kNodeBytes) {
    throw DecodeError("the header promises " + std::to_string(header.nodes) + " nodes, but the " +
                          std::to_string(size - kHeaderBytes) + " bytes behind it cannot hold them",
                      24, "nodes");
  }
  return header;
}

// How many free nodes lie at `at` in a row, of at most `left` which are all there.
std::uint32_t free_run(const std::byte* at, std::uint32_t left) {
  constexpr std::uint32_t kStride = 8;
  std::uint32_t run = 0;
  for (; left - run >= kStride; run += kStride) {
    const std::byte* node = at + std::size_t{run} * kNodeBytes + kLiveOffset;
    std::byte any{0};
    for (std::size_t i = 0; i < kStride; ++i) any |= node[i * kNodeBytes];
    if (any != std::byte{0}) break;
  }
  while (run < left && at[std::size_t{run} * kNodeBytes + kLiveOffset] == std::byte{0}) ++run;
  return run;
}

// The live node at `offset`, whose 9 bytes are inside the file.
LiveNode read_live_node(FileWindow& window, std::size_t offset, std::uint32_t index) {
  if (window.reach(offset, kNodeBytes)[kLiveOffset] != std::byte{1}) {
    throw DecodeError("the flag of node " + std::to_string(index) + " is neither 0 nor 1",
                      offset + kLiveOffset, "live");
  }
  const std::size_t entry = offset + kNodeBytes;
  const std::size_t left = window.file_size() - entry;
  if (left < sizeof(std::uint32_t)) {
    throw DecodeError("the file ends inside node " + std::to_string(index), window.file_size(), "inner_len");
  }
  const auto inner_len = load<std::uint32_t>(window.reach(offset, kValuesOffset) + kNodeBytes);
  if (left - 4 < 16 || inner_len > (left - 4 - 16) / sizeof(float)) {
    throw DecodeError("node " + std::to_string(index) + " promises " + std::to_string(inner_len) +
                          " floats, but the file ends before them",
                      entry, "inner_len");
  }
  const std::byte* const node = window.reach(offset, live_node_bytes(inner_len));
  const std::size_t tail = kValuesOffset + std::size_t{inner_len} * sizeof(float);
  const auto dim = load<std::uint64_t>(node + tail);
  if (dim < 1 || dim > kMaxDim || dim > inner_len) {
    throw DecodeError("node " + std::to_string(index) + " has an embedding of dim " + std::to_string(dim) +
                          " in " + std::to_string(inner_len) + " floats; it must be 1 to " +
                          std::to_string(kMaxDim) + ", and in them",
                      offset + tail, "dim");
  }
  return live_node(node, index, inner_len);
}

// Visits the nodes at `at` as long as they are live, like `like`, and end before `end`; at most `left`. Nodes
// that pass need no other check: their length and dim are those of one that was checked. Returns how many
// there were.
template <class Visit>
std::uint32_t alike_run(const std::byte* at, const std::byte* end, std::uint32_t left, const LiveNode& like,
                        Visit&& visit) {
  const std::size_t bytes = live_node_bytes(like.inner_len);
  const std::size_t tail = kValuesOffset + std::size_t{like.inner_len} * sizeof(float);
  const auto fit = static_cast<std::size_t>(end - at) / bytes;
  const auto most = static_cast<std::uint32_t>(std::min<std::size_t>(left, fit));
  std::uint32_t run = 0;
  for (; run < most; ++run, at += bytes) {
    const bool alike = (at[kLiveOffset] == std::byte{1}) &
                       (load<std::uint32_t>(at + kNodeBytes) == like.inner_len) &
                       (load<std::uint64_t>(at + tail) == like.dim);
    if (!alike) break;
    visit(live_node(at, like.index + 1 + run, like.inner_len));
  }
  return run;
}

// The one reader: calls visit(node) for every live node, in the order of the file, and proves the file good
// on the way. Before the bytes of nodes that were visited go away, it calls let_go(); also at the end. Throws
// DecodeError.
template <class Visit, class LetGo>
Header for_each_live_node(const EmbeddingFile& file, Visit&& visit, LetGo&& let_go) {
  FileWindow window(file, std::ref(let_go));
  const Header header = read_header(window);
  std::size_t offset = kHeaderBytes;
  std::uint32_t done = 0;
  while (done < header.nodes) {
    const std::byte* at = window.reach(offset, std::min(kNodeBytes, window.file_size() - offset));
    const std::size_t room = static_cast<std::size_t>(window.end() - at) / kNodeBytes;
    const std::uint32_t free =
        free_run(at, static_cast<std::uint32_t>(std::min<std::size_t>(header.nodes - done, room)));
    offset += std::size_t{free} * kNodeBytes;
    done += free;
    if (done == header.nodes) break;
    if (window.file_size() - offset < kNodeBytes) {
      throw DecodeError(
          "the file ends after " + std::to_string(done) + " of " + std::to_string(header.nodes) + " nodes",
          window.file_size(), "node");
    }
    if (free == room) continue;  // the window may end here, the file does not

    const LiveNode node = read_live_node(window, offset, ++done);
    visit(node);
    offset += live_node_bytes(node.inner_len);
    at = node.values - kValuesOffset + live_node_bytes(node.inner_len);
    const std::uint32_t run = alike_run(at, window.end(), header.nodes - done, node, visit);
    offset += run * live_node_bytes(node.inner_len);
    done += run;
  }
  let_go();
  if (offset != window.file_size()) {
    throw DecodeError(std::to_string(window.file_size() - offset) + " bytes follow the last node", offset,
                      "end");
  }
  return header;
}

template <class Visit>
Header for_each_live_node(const EmbeddingFile& file, Visit&& visit) {
  return for_each_live_node(file, visit, [] {});
}

struct Link {
  std::uint32_t index;
  std::uint32_t next;
};

// How many live nodes a walk from first to last meets. `links` is in the order of index.
std::uint64_t walk(const Header& header, const std::vector<Link>& links) {
  std::vector<bool> seen(links.size());
  std::uint64_t met = 0;
  for (std::uint32_t at = header.first; at != 0;) {
    const auto link =
        std::lower_bound(links.begin(), links.end(), at,
                         [](const Link& candidate, std::uint32_t index) { return candidate.index < index; });
    if (link == links.end() || link->index != at) break;
    const auto position = static_cast<std::size_t>(link - links.begin());
    if (seen[position]) break;
    seen[position] = true;
    ++met;
    if (at == header.last) break;
    at = link->next;
  }
  return met;
}

// Counts on the way; the rest once the file is known to be good.
class Summarizer {
 public:
  void count(const LiveNode& node, bool is_owned) {
    ++live_;
    rows_[node.dim] += is_owned;
  }

  EmbeddingFileSummary summary(const EmbeddingFile& file, const Header& header) const {
    EmbeddingFileSummary summary{header.count, header.nodes, live_, {}, {}};
    for (std::size_t dim = 1; dim <= kMaxDim; ++dim) {
      if (rows_[dim]) summary.rows_by_dim[dim] = rows_[dim];
    }
    if (summary.count != summary.live) {  // rare: worth another pass, not a list of links in every one
      std::vector<Link> links;
      links.reserve(live_);
      for_each_live_node(file, [&](const LiveNode& node) { links.push_back({node.index, node.next}); });
      summary.linked = walk(header, links);
    }
    return summary;
  }

 private:
  std::uint64_t live_ = 0;
  std::array<std::uint64_t, kMaxDim + 1> rows_{};
};

// Whether a sign is of the route, without its hash where every sign is.
class Ownership {
 public:
  explicit Ownership(ShardRoute route) : shard_of_(route.size), index_(route.index), all_(route.size == 1) {}
  bool operator()(std::uint64_t sign) const { return all_ || shard_of_(sign) == index_; }

 private:
  ShardOfSign shard_of_;
  std::uint32_t index_;
  bool all_;
};

// Rows on their way into one table: as many as the table likes at once.
class Pending {
 public:
  explicit Pending(Table& table) : table_(table), signs_(kRows), rows_(kRows) {}

  void add(const LiveNode& node, std::uint32_t ordinal) {
    signs_[n_] = node.sign;
    rows_[n_] = node.values;
    if (++n_ == kRows) flush(ordinal);
  }

  void flush(std::uint32_t ordinal) {
    table_.bulk_insert(reinterpret_cast<const std::byte*>(signs_.data()), rows_.data(), n_, RowType::kFloat32,
                       ordinal);
    n_ = 0;
  }

 private:
  static constexpr std::size_t kRows = 8192;

  Table& table_;
  std::size_t n_ = 0;
  std::vector<std::uint64_t> signs_;
  std::vector<const std::byte*> rows_;
};

}  // namespace

EmbeddingFile EmbeddingFile::open(int descriptor) {
  struct stat status;
  if (::fstat(descriptor, &status) != 0) throw std::system_error(errno, std::generic_category(), "fstat");
  ::posix_fadvise(descriptor, 0, 0, POSIX_FADV_SEQUENTIAL);
  return {descriptor, static_cast<std::size_t>(status.st_size)};
}

MissingDimError::MissingDimError(std::uint64_t dim)
    : std::invalid_argument("no table of dim " + std::to_string(dim) + " was given") {}

bool ShardRoute::owns(std::uint64_t sign) const { return Ownership(*this)(sign); }

std::optional<EmbeddingFileEstimate> estimate_embedding_file(const EmbeddingFile& file) {
  constexpr std::size_t kSampleBytes = std::size_t{64} << 10;
  constexpr std::size_t kSampleNodes = 64;
  FileWindow window(file, [] {}, kSampleBytes);
  const Header header = read_header(window);
  const std::size_t entries =
      file.size() - kHeaderBytes - header.nodes * kNodeBytes;  // of all live nodes together
  if (entries == 0) return EmbeddingFileEstimate{};

  std::size_t offset = kHeaderBytes;
  std::optional<LiveNode> first;
  std::size_t sampled = 0;
  for (std::uint32_t index = 1; index <= header.nodes && sampled < kSampleNodes; ++index) {
    if (file.size() - offset < kNodeBytes) break;
    if (offset + kNodeBytes > kSampleBytes) break;
    if (window.reach(offset, kNodeBytes)[kLiveOffset] == std::byte{0}) {
      offset += kNodeBytes;
      continue;
    }
    const LiveNode node = read_live_node(window, offset, index);
    if (!first) first = node;
    if (node.inner_len != first->inner_len || node.dim != first->dim) return {};
    offset += live_node_bytes(node.inner_len);
    ++sampled;
  }
  if (!first) return {};
  const std::size_t each = live_node_bytes(first->inner_len) - kNodeBytes;
  if (entries % each != 0) return {};
  return EmbeddingFileEstimate{first->dim, entries / each};
}

EmbeddingFileSummary summarize_embedding_file(const EmbeddingFile& file, ShardRoute route) {
  Summarizer counts;
  const Ownership owns(route);
  const Header header =
      for_each_live_node(file, [&](const LiveNode& node) { counts.count(node, owns(node.sign)); });
  return counts.summary(file, header);
}

EmbeddingFileSummary load_embedding_file(const EmbeddingFile& file, ShardRoute route,
                                         std::span<Table* const> tables, std::uint32_t ordinal) {
  std::vector<Pending> pending;
  pending.reserve(tables.size());
  std::array<Pending*, kMaxDim + 1> by_dim{};
  for (Table* const table : tables) by_dim[table->dim()] = &pending.emplace_back(*table);

  Summarizer counts;
  const Ownership owns(route);
  const Header header = for_each_live_node(
      file,
      [&](const LiveNode& node) {
        const bool owned = owns(node.sign);
        counts.count(node, owned);
        if (!owned) return;
        Pending* const rows = by_dim[node.dim];
        if (!rows) throw MissingDimError(node.dim);
        rows->add(node, ordinal);
      },
      [&] {
        for (Pending& rows : pending) rows.flush(ordinal);
      });
  return counts.summary(file, header);
}

EmbeddingEntries read_embedding_file(const EmbeddingFile& file) {
  EmbeddingEntries entries;
  for_each_live_node(file, [&](const LiveNode& node) {
    entries.signs.push_back(node.sign);
    entries.dims.push_back(node.dim);
    entries.inner_lens.push_back(node.inner_len);
    const std::size_t begin = entries.values.size();
    entries.values.resize(begin + node.dim);
    std::memcpy(entries.values.data() + begin, node.values, node.dim * sizeof(float));
  });
  return entries;
}

}  // namespace satrap
