#include "satrap/embedding_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "satrap/id_kernels.h"

namespace satrap {
namespace {

static_assert(std::endian::native == std::endian::little, "the files are read as they lie");

constexpr std::size_t kHeaderBytes = 28;
constexpr std::size_t kNodeBytes = 9;
constexpr std::size_t kLiveOffset = 8;  // of the flag in a node

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
  const std::byte* values;  // inner_len floats, unaligned
};

Header read_header(std::span<const std::byte> file) {
  if (file.size() < kHeaderBytes) {
    throw DecodeError("the file ends inside its header of " + std::to_string(kHeaderBytes) + " bytes",
                      file.size(), "header");
  }
  const std::byte* at = file.data();
  const Header header{load<std::uint64_t>(at), load<std::uint32_t>(at + 8), load<std::uint32_t>(at + 12),
                      load<std::uint32_t>(at + 24)};
  if (header.nodes > (file.size() - kHeaderBytes) / kNodeBytes) {
    throw DecodeError("the header promises " + std::to_string(header.nodes) + " nodes, but the " +
                          std::to_string(file.size() - kHeaderBytes) + " bytes behind it cannot hold them",
                      24, "nodes");
  }
  return header;
}

// How many free nodes lie at `at` in a row, of at most `left` which are all inside the file.
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

// The live node at `offset`, whose 9 bytes are inside the file; moves `offset` behind it.
LiveNode read_live_node(std::span<const std::byte> file, std::size_t& offset, std::uint32_t index) {
  const std::byte* node = file.data() + offset;
  if (node[kLiveOffset] != std::byte{1}) {
    throw DecodeError("the flag of node " + std::to_string(index) + " is neither 0 nor 1",
                      offset + kLiveOffset, "live");
  }
  const std::size_t entry = offset + kNodeBytes;
  const std::size_t left = file.size() - entry;
  if (left < sizeof(std::uint32_t)) {
    throw DecodeError("the file ends inside node " + std::to_string(index), file.size(), "inner_len");
  }
  const auto inner_len = load<std::uint32_t>(file.data() + entry);
  if (left - 4 < 16 || inner_len > (left - 4 - 16) / sizeof(float)) {
    throw DecodeError("node " + std::to_string(index) + " promises " + std::to_string(inner_len) +
                          " floats, but the file ends before them",
                      entry, "inner_len");
  }
  const std::byte* values = file.data() + entry + 4;
  const std::byte* tail = values + std::size_t{inner_len} * sizeof(float);
  const auto dim = load<std::uint64_t>(tail);
  if (dim < 1 || dim > kMaxDim || dim > inner_len) {
    throw DecodeError("node " + std::to_string(index) + " has an embedding of dim " + std::to_string(dim) +
                          " in " + std::to_string(inner_len) + " floats; it must be 1 to " +
                          std::to_string(kMaxDim) + ", and in them",
                      static_cast<std::size_t>(tail - file.data()), "dim");
  }
  offset = entry + 4 + std::size_t{inner_len} * sizeof(float) + 16;
  return {index,
          load<std::uint32_t>(node),
          inner_len,
          static_cast<std::uint32_t>(dim),
          load<std::uint64_t>(tail + 8),
          values};
}

// The one reader: calls visit(node) for every live node, in the order of the file, and proves the file good
// on the way. Throws DecodeError.
template <class Visit>
Header for_each_live_node(std::span<const std::byte> file, Visit&& visit) {
  const Header header = read_header(file);
  std::size_t offset = kHeaderBytes;
  std::uint32_t done = 0;
  while (done < header.nodes) {
    const std::uint32_t left = header.nodes - done;
    const std::size_t room = (file.size() - offset) / kNodeBytes;
    const std::uint32_t run =
        free_run(file.data() + offset, static_cast<std::uint32_t>(std::min<std::size_t>(left, room)));
    offset += std::size_t{run} * kNodeBytes;
    done += run;
    if (done == header.nodes) break;
    if (file.size() - offset < kNodeBytes) {
      throw DecodeError(
          "the file ends after " + std::to_string(done) + " of " + std::to_string(header.nodes) + " nodes",
          file.size(), "node");
    }
    visit(read_live_node(file, offset, ++done));
  }
  if (offset != file.size()) {
    throw DecodeError(std::to_string(file.size() - offset) + " bytes follow the last node", offset, "end");
  }
  return header;
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

// Rows on their way into one table: gathered so that the table can prefetch.
struct Pending {
  static constexpr std::size_t kRows = 512;

  Table* table;
  std::size_t n = 0;
  std::array<std::uint64_t, kRows> signs;
  std::array<const std::byte*, kRows> rows;

  void flush(std::uint32_t ordinal) {
    table->upsert(reinterpret_cast<const std::byte*>(signs.data()), rows.data(), n, RowType::kFloat32,
                  ordinal);
    n = 0;
  }
};

}  // namespace

bool ShardRoute::owns(std::uint64_t sign) const { return size == 1 || ShardOfSign(size)(sign) == index; }

EmbeddingFileSummary summarize_embedding_file(std::span<const std::byte> file, ShardRoute route) {
  EmbeddingFileSummary summary;
  std::array<std::uint64_t, kMaxDim + 1> rows{};
  const Header header = for_each_live_node(file, [&](const LiveNode& node) {
    ++summary.live;
    rows[node.dim] += route.owns(node.sign);
  });
  summary.count = header.count;
  summary.nodes = header.nodes;
  for (std::size_t dim = 1; dim <= kMaxDim; ++dim) {
    if (rows[dim]) summary.rows_by_dim[dim] = rows[dim];
  }
  if (summary.count != summary.live) {
    std::vector<Link> links;
    links.reserve(summary.live);
    for_each_live_node(file, [&](const LiveNode& node) { links.push_back({node.index, node.next}); });
    summary.linked = walk(header, links);
  }
  return summary;
}

std::size_t load_embedding_file(std::span<const std::byte> file, ShardRoute route,
                                std::span<Table* const> tables, std::uint32_t ordinal) {
  std::vector<Pending> pending(tables.size());
  std::array<Pending*, kMaxDim + 1> by_dim{};
  for (std::size_t i = 0; i < tables.size(); ++i) {
    pending[i].table = tables[i];
    by_dim[tables[i]->dim()] = &pending[i];
  }
  std::size_t taken = 0;
  for_each_live_node(file, [&](const LiveNode& node) {
    if (!route.owns(node.sign)) return;
    Pending* const rows = by_dim[node.dim];
    if (!rows) throw std::invalid_argument("no table of dim " + std::to_string(node.dim) + " was given");
    rows->signs[rows->n] = node.sign;
    rows->rows[rows->n] = node.values;
    ++taken;
    if (++rows->n == Pending::kRows) rows->flush(ordinal);
  });
  for (Pending& rows : pending) rows.flush(ordinal);
  return taken;
}

EmbeddingEntries read_embedding_file(std::span<const std::byte> file) {
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
