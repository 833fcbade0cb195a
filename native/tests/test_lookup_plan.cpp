#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "check.h"
#include "satrap/half.h"
#include "satrap/id_kernels.h"
#include "satrap/lookup_plan.h"

namespace {

using satrap::FeatureTensor;
using satrap::GroupRows;
using satrap::IdFeature;
using satrap::LookupPlan;
using satrap::RowFormat;
using satrap::Slot;
using satrap::SlotTable;

float value_of(std::uint64_t sign, std::size_t column) {
  return static_cast<float>((sign + 3 * column) % 61) / 8;
}

// Plays the shards: rows in `buffers`, which the result points to.
std::vector<GroupRows> answer(const LookupPlan& plan, RowFormat format,
                              std::vector<std::vector<std::byte>>& buffers) {
  buffers.clear();
  for (const satrap::SignGroup& group : plan.groups()) {
    const std::size_t item = format == RowFormat::kFloat32 ? 4 : 2;
    std::vector<std::byte> rows(group.signs.size() * group.dim * item);
    for (std::size_t r = 0; r < group.signs.size(); ++r) {
      for (std::size_t c = 0; c < group.dim; ++c) {
        const float value = value_of(group.signs[r], c);
        const std::uint16_t half = satrap::half_from_float(value);
        std::byte* at = rows.data() + (r * group.dim + c) * item;
        if (format == RowFormat::kFloat32) {
          std::memcpy(at, &value, 4);
        } else {
          std::memcpy(at, &half, 2);
        }
      }
    }
    buffers.push_back(std::move(rows));
  }
  std::vector<GroupRows> rows;
  for (const auto& buffer : buffers) rows.push_back({format, buffer});
  return rows;
}

float at(const FeatureTensor& tensor, std::size_t row, std::size_t column) {
  return satrap::float_from_half(tensor.values[row * tensor.slot->dim + column]);
}

Slot slot(const char* name, std::uint32_t dim, std::uint64_t prefix = std::uint64_t{1} << 56) {
  Slot made;
  made.name = name;
  made.dim = dim;
  made.sample_fixed_size = 3;
  made.prefix = prefix;
  return made;
}

void test_sums_over_any_number_of_shards() {
  std::mt19937_64 random(1);
  const SlotTable slots(8, {slot("a", 4), slot("b", 4, std::uint64_t{2} << 56), slot("c", 19)});
  for (const std::uint32_t shards : {1u, 2u, 3u, 8u, 100u}) {
    for (const RowFormat format : {RowFormat::kFloat32, RowFormat::kFloat16}) {
      std::vector<IdFeature> features;
      std::vector<std::vector<std::uint64_t>> ids;
      const std::vector<std::uint32_t> offsets{0, 10, 10, 25};
      for (const char* name : {"a", "b", "c", "a"}) {
        std::vector<std::uint64_t>& values = ids.emplace_back(25);
        for (std::uint64_t& value : values) value = random() % 20;
        features.push_back(satrap::group_by_id(name, values, offsets));
      }
      std::vector<LookupPlan::Input> inputs;
      for (const IdFeature& feature : features) inputs.push_back({&feature, slots.find(feature.name)});
      const LookupPlan plan(inputs, 8, shards);
      std::set<std::pair<std::uint32_t, std::uint64_t>> asked;
      for (const satrap::SignGroup& group : plan.groups()) {
        for (const std::uint64_t sign : group.signs) {
          CHECK(satrap::farmhash64(sign) % shards == group.shard);
          CHECK(asked.emplace(group.dim, sign).second);
        }
      }
      std::vector<std::vector<std::byte>> buffers;
      const auto tensors = plan.assemble(answer(plan, format, buffers));
      for (std::size_t f = 0; f < features.size(); ++f) {
        for (std::size_t s = 0; s < 3; ++s) {
          for (std::size_t c = 0; c < inputs[f].slot->dim; ++c) {
            float sum = 0;
            for (std::uint32_t i = offsets[s]; i < offsets[s + 1]; ++i)
              sum += value_of(ids[f][i] + inputs[f].slot->prefix, c);
            CHECK(at(tensors[f], s, c) == satrap::float_from_half(satrap::half_from_float(sum)));
          }
        }
      }
    }
  }
}

void test_raw_rows_and_index() {
  Slot raw = slot("a", 5);
  raw.summation = false;
  const SlotTable slots(8, {raw});
  const std::uint64_t top = (std::uint64_t{1} << 56) - 1;  // meets 0
  const std::vector<std::uint64_t> ids{0, 9, top, 9, 9, 4};
  const IdFeature feature = satrap::group_by_id("a", ids, std::vector<std::uint32_t>{0, 2, 3, 3, 6});
  const LookupPlan plan(std::vector<LookupPlan::Input>{{&feature, slots.find("a")}}, 8, 2);
  std::vector<std::vector<std::byte>> buffers;
  const auto tensors = plan.assemble(answer(plan, RowFormat::kFloat32, buffers));
  const FeatureTensor& tensor = tensors[0];
  CHECK(tensor.rows == 5);
  const std::vector<std::int64_t> index(tensor.index.get(), tensor.index.get() + 12);
  CHECK((index == std::vector<std::int64_t>{1, 2, 0, 0, 0, 0, 0, 0, 0, 2, 2, 4}));
  const std::vector<std::uint64_t> numbers(tensor.sample_id_num.get(), tensor.sample_id_num.get() + 4);
  CHECK((numbers == std::vector<std::uint64_t>{2, 0, 0, 3}));
  for (std::size_t c = 0; c < 5; ++c) {
    CHECK(at(tensor, 0, c) == 0);
    CHECK(at(tensor, 1, c) == value_of(raw.prefix, c));
    CHECK(at(tensor, 3, c) == 0);  // the row of `top`, which lost its place to 0
    CHECK(at(tensor, 4, c) == value_of(raw.prefix + 4, c));
  }
}

void test_nothing() {
  const SlotTable slots(8, {slot("a", 4)});
  const LookupPlan empty({}, 8, 3);
  CHECK(empty.groups().empty());
  CHECK(empty.assemble({}).empty());
  const IdFeature feature = satrap::group_by_id("a", {}, std::vector<std::uint32_t>{0});
  const LookupPlan plan(std::vector<LookupPlan::Input>{{&feature, slots.find("a")}}, 8, 3);
  CHECK(plan.groups().empty());
  CHECK(plan.assemble({})[0].rows == 0);
}

void test_rows_of_the_wrong_size() {
  const SlotTable slots(8, {slot("a", 4)});
  const IdFeature feature =
      satrap::group_by_id("a", std::vector<std::uint64_t>{1, 2}, std::vector<std::uint32_t>{0, 2});
  const LookupPlan plan(std::vector<LookupPlan::Input>{{&feature, slots.find("a")}}, 8, 1);
  const std::vector<std::byte> rows(31);
  const GroupRows wrong{RowFormat::kFloat32, rows};
  CHECK_THROWS(std::invalid_argument, plan.assemble({}));
  CHECK_THROWS(std::invalid_argument, plan.assemble(std::span(&wrong, 1)));
}

void test_slots_that_cannot_be() {
  Slot stacked = slot("a", 4);
  stacked.hash_stack_rounds = 2;
  CHECK_THROWS(std::invalid_argument, SlotTable(8, {stacked}));
  CHECK_THROWS(std::invalid_argument, SlotTable(8, {slot("a", 0)}));
  CHECK_THROWS(std::invalid_argument, SlotTable(8, {slot("a", 4), slot("a", 4)}));
  CHECK_THROWS(std::invalid_argument, SlotTable(0, {}));
  CHECK_THROWS(std::invalid_argument, SlotTable(64, {}));
}

}  // namespace

int main() {
  test_sums_over_any_number_of_shards();
  test_raw_rows_and_index();
  test_nothing();
  test_rows_of_the_wrong_size();
  test_slots_that_cannot_be();
  std::puts("lookup_plan: ok");
}
