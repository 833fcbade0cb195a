#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "owned_array.h"
#include "satrap/id_kernels.h"

namespace nb = nanobind;

namespace {

using Ids = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::span<const std::uint64_t> span_of(const Ids& ids) { return {ids.data(), ids.shape(0)}; }

nb::object farmhash64(const Ids& ids) {
  std::vector<std::uint64_t> hashes(ids.shape(0));
  {
    const nb::gil_scoped_release unlocked;
    std::ranges::transform(span_of(ids), hashes.begin(), satrap::farmhash64);
  }
  return array_of(std::move(hashes));
}

nb::object add_prefix(const Ids& ids, std::uint64_t prefix, unsigned bits) {
  if (bits < 1 || bits > 63) throw std::invalid_argument("bits must be 1 to 63");
  std::vector<std::uint64_t> signs(ids.shape(0));
  {
    const nb::gil_scoped_release unlocked;
    std::ranges::transform(span_of(ids), signs.begin(), satrap::IdPrefix(bits, prefix));
  }
  return array_of(std::move(signs));
}

nb::object hash_stack(const Ids& ids, std::uint64_t rounds, std::uint64_t embedding_size) {
  if (embedding_size == 0) throw std::invalid_argument("embedding_size must be 1 or more");
  const std::size_t n = ids.shape(0);
  if (n != 0 && rounds > (std::uint64_t{1} << 40) / n) throw std::invalid_argument("too many rounds");
  std::vector<std::uint64_t> buckets(rounds * n);
  {
    const nb::gil_scoped_release unlocked;
    satrap::hash_stack(span_of(ids), rounds, embedding_size, buckets.data());
  }
  return array_of(std::move(buckets), {static_cast<std::size_t>(rounds), n});
}

nb::tuple dedup(const Ids& ids) {
  satrap::Distinct distinct = [&] {
    const nb::gil_scoped_release unlocked;
    return satrap::dedup(span_of(ids));
  }();
  return nb::make_tuple(array_of(std::move(distinct.signs)), array_of(std::move(distinct.inverse)));
}

nb::tuple split_by_shard(const Ids& ids, std::uint32_t replica_size) {
  if (replica_size == 0) throw std::invalid_argument("replica_size must be 1 or more");
  satrap::SplitSigns split = [&] {
    const nb::gil_scoped_release unlocked;
    return satrap::split_by_shard(span_of(ids), replica_size);
  }();
  return nb::make_tuple(array_of(std::move(split.signs)), array_of(std::move(split.order)),
                        array_of(std::move(split.starts)));
}

}  // namespace

void register_ids(nb::module_& m) {
  using namespace nb::literals;
  m.def("farmhash64", &farmhash64, "ids"_a.noconvert(),
        nb::sig("def farmhash64(ids: numpy.typing.NDArray[numpy.uint64]) "
                "-> numpy.typing.NDArray[numpy.uint64]"),
        "farmhash64 of each id's 8 little-endian bytes: u64[n] -> u64[n]. The GIL is released.");
  m.def("add_prefix", &add_prefix, "ids"_a.noconvert(), "prefix"_a, "bits"_a,
        nb::sig("def add_prefix(ids: numpy.typing.NDArray[numpy.uint64], prefix: int, bits: int) "
                "-> numpy.typing.NDArray[numpy.uint64]"),
        "Ids in the space of their feature group: id % (2^(64-bits) - 1) + prefix; a prefix of 0 changes "
        "nothing. "
        "u64[n] -> u64[n].\n\n"
        "Raises ValueError for bits outside 1 to 63. The GIL is released.");
  m.def("hash_stack", &hash_stack, "ids"_a.noconvert(), "rounds"_a, "embedding_size"_a,
        nb::sig("def hash_stack(ids: numpy.typing.NDArray[numpy.uint64], rounds: int, embedding_size: int) "
                "-> numpy.typing.NDArray[numpy.uint64]"),
        "Buckets of a hash stack: u64[n] -> u64[rounds, n].\n\n"
        "Raises ValueError for an embedding_size of 0. The GIL is released.");
  m.def("dedup", &dedup, "ids"_a.noconvert(),
        nb::sig("def dedup(ids: numpy.typing.NDArray[numpy.uint64]) "
                "-> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint32]]"),
        "(distinct u64[m] in order of first occurrence, inverse u32[n]): distinct[inverse] is `ids`. The GIL "
        "is "
        "released.");
  m.def("split_by_shard", &split_by_shard, "signs"_a.noconvert(), "replica_size"_a,
        nb::sig("def split_by_shard(signs: numpy.typing.NDArray[numpy.uint64], replica_size: int) "
                "-> tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint64], "
                "numpy.typing.NDArray[numpy.uint64]]"),
        "(signs u64[n] by shard, order u64[n], starts u64[replica_size + 1]): shard s owns "
        "signs[starts[s]:starts[s + 1]], and signs[i] was the order[i]-th given. The shard of a sign is "
        "farmhash64(sign) % replica_size.\n\n"
        "Raises ValueError for a replica_size of 0. The GIL is released.");
}
