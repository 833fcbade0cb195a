#include <cstdint>
#include <cstdio>
#include <random>
#include <set>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "satrap/id_feature.h"
#include "satrap/id_kernels.h"

namespace {

using satrap::IdFeature;
using satrap::IdPrefix;

constexpr std::uint64_t kMax = ~std::uint64_t{0};

void test_farmhash() {
  CHECK(satrap::farmhash64(0) == 0x14397a23417af284u);
  CHECK(satrap::farmhash64(1) == 0x523be90bb03b5a61u);
  CHECK(satrap::farmhash64(kMax) == 0x2fffe7a41fb59155u);
}

void test_prefix() {
  const IdPrefix prefix(8, std::uint64_t{3} << 56);
  const std::uint64_t top = (std::uint64_t{1} << 56) - 1;
  CHECK(prefix(0) == prefix(top));
  CHECK(prefix(5) == (std::uint64_t{3} << 56) + 5);
  CHECK(prefix(top + 1) == (std::uint64_t{3} << 56) + 1);
  CHECK(IdPrefix(8, 0)(kMax) == kMax);
  CHECK(IdPrefix(63, 9)(kMax) == 9);
  CHECK(IdPrefix(1, kMax)(3) == 2);
}

void test_hash_stack() {
  const std::vector<std::uint64_t> ids{0, 1, kMax};
  std::vector<std::uint64_t> buckets(9);
  satrap::hash_stack(ids, 3, 50, buckets.data());
  for (std::size_t i = 0; i < 9; ++i) CHECK(buckets[i] / 50 == i / 3);
  CHECK(buckets[0] == satrap::farmhash64(0) % 50);
  CHECK(buckets[3] == satrap::farmhash64(satrap::farmhash64(0)) % 50 + 50);
  satrap::hash_stack({}, 3, 50, nullptr);
}

void test_dedup() {
  std::mt19937_64 random(1);
  for (const std::uint64_t range : {std::uint64_t{1}, std::uint64_t{50}, kMax}) {
    std::vector<std::uint64_t> ids(5000);
    for (std::uint64_t& id : ids) id = random() % range;
    ids.push_back(0);
    ids.push_back(kMax);
    const satrap::Distinct distinct = satrap::dedup(ids);
    CHECK(std::set<std::uint64_t>(ids.begin(), ids.end()).size() == distinct.signs.size());
    for (std::size_t i = 0; i < ids.size(); ++i) CHECK(distinct.signs[distinct.inverse[i]] == ids[i]);
  }
  CHECK(satrap::dedup({}).signs.empty());
}

void test_split() {
  std::vector<std::uint64_t> ids(1000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = i * 977;
  for (const std::uint32_t shards : {1u, 2u, 3u, 7u, 64u, 2000u}) {
    const satrap::SplitSigns split = satrap::split_by_shard(ids, shards);
    CHECK(split.starts.front() == 0 && split.starts.back() == ids.size());
    for (std::uint32_t s = 0; s < shards; ++s) {
      for (std::size_t i = split.starts[s]; i < split.starts[s + 1]; ++i) {
        CHECK(split.signs[i] == ids[split.order[i]]);
        CHECK(satrap::farmhash64(split.signs[i]) % shards == s);
        CHECK(satrap::ShardOfSign(shards)(split.signs[i]) == s);
      }
    }
  }
}

void test_features_and_back() {
  const std::vector<std::uint64_t> ids{5, 5, 6, 5};
  const std::vector<std::uint32_t> offsets{0, 0, 3, 4};
  for (const IdFeature& feature :
       {satrap::group_by_id("f", ids, offsets), satrap::one_entry_each("f", ids, offsets)}) {
    std::vector<std::uint64_t> values(4);
    std::vector<std::uint32_t> back(4);
    satrap::to_sample_order(feature, values.data(), back.data());
    CHECK(values == ids);
    CHECK(back == offsets);
  }
  CHECK(satrap::group_by_id("f", ids, offsets).signs.size() == 2);
  CHECK(satrap::one_entry_each("f", ids, offsets).signs.size() == 4);
}

void test_offsets_that_are_none() {
  const std::vector<std::uint64_t> ids{5, 6};
  const std::vector<std::vector<std::uint32_t>> wrong{{}, {1, 2}, {0, 1}, {0, 3}, {0, 2, 1, 2}};
  for (const auto& offsets : wrong) {
    CHECK_THROWS(std::invalid_argument, satrap::group_by_id("f", ids, offsets));
    CHECK_THROWS(std::invalid_argument, satrap::one_entry_each("f", ids, offsets));
  }
  const std::vector<std::uint32_t> too_many(satrap::kMaxBatchSize + 2);
  CHECK_THROWS(std::invalid_argument, satrap::group_by_id("f", {}, too_many));
}

}  // namespace

int main() {
  test_farmhash();
  test_prefix();
  test_hash_stack();
  test_dedup();
  test_split();
  test_features_and_back();
  test_offsets_that_are_none();
  std::puts("id_kernels: ok");
}
