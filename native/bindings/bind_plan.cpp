#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "decoded_batch.h"
#include "owned_array.h"
#include "satrap/lookup_plan.h"

namespace nb = nanobind;

namespace {

using satrap::FeatureTensor;
using satrap::GroupRows;
using satrap::IdFeature;
using satrap::LookupPlan;
using satrap::RowFormat;
using satrap::Slot;
using satrap::SlotTable;

using Ids = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Offsets = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FlatFeature = std::tuple<std::string, Ids, Offsets>;

// DType of embedding.proto.
constexpr int kFloat32Rows = 1;
constexpr int kFloat16Rows = 2;

const Slot& slot_of(const SlotTable& slots, const std::string& feature) {
  const Slot* slot = slots.find(feature);
  if (slot == nullptr) throw nb::key_error(feature.c_str());
  return *slot;
}

// A plan with everything that it points to: slots, decoded batches, features made here.
class Plan {
 public:
  Plan(std::shared_ptr<const SlotTable> slots, const nb::sequence& batches, std::uint32_t replica_size)
      : slots_(std::move(slots)) {
    if (replica_size == 0) throw std::invalid_argument("replica_size must be 1 or more");
    for (nb::handle batch : batches) {
      const std::size_t before = inputs_.size();
      DecodedBatch* decoded = nullptr;
      if (nb::try_cast(batch, decoded) && decoded != nullptr) {
        batches_.push_back(nb::borrow(batch));
        for (const IdFeature& feature : decoded->batch.id_features) {
          inputs_.push_back({&feature, &slot_of(*slots_, feature.name)});
        }
      } else {
        for (nb::handle item : batch) add_flat(nb::cast<FlatFeature>(item));
      }
      sizes_.push_back(inputs_.size() - before);
    }
    const nb::gil_scoped_release unlocked;
    plan_.emplace(inputs_, slots_->prefix_bits(), replica_size);
  }

  nb::list groups() const {
    nb::list result;
    for (const satrap::SignGroup& group : plan_->groups()) {
      result.append(nb::make_tuple(
          group.shard, group.dim, nb::bytes(group.signs.data(), group.signs.size() * sizeof group.signs[0])));
    }
    return result;
  }

  nb::list assemble(const nb::sequence& rows) const {
    std::deque<HeldBuffer> buffers;
    std::vector<GroupRows> groups;
    for (nb::handle item : rows) {
      const auto [dtype, data] = nb::cast<std::pair<int, nb::object>>(item);
      if (dtype != kFloat32Rows && dtype != kFloat16Rows) {
        throw std::invalid_argument("rows of dtype " + std::to_string(dtype) +
                                    ", neither float32 (1) nor float16 (2)");
      }
      const auto format = dtype == kFloat32Rows ? RowFormat::kFloat32 : RowFormat::kFloat16;
      groups.push_back({format, buffers.emplace_back(data).bytes()});
    }
    std::vector<FeatureTensor> tensors = [&] {
      const nb::gil_scoped_release unlocked;
      return plan_->assemble(groups);
    }();
    nb::list result;
    auto next = tensors.begin();
    for (const std::size_t size : sizes_) {
      nb::list batch;
      for (std::size_t i = 0; i < size; ++i) batch.append(tuple_of(*next++));
      result.append(batch);
    }
    return result;
  }

 private:
  // Ids of a feature that is summed need no grouping: the plan sends each sign once anyway.
  void add_flat(const FlatFeature& flat) {
    const auto& [name, values, offsets] = flat;
    const Slot& slot = slot_of(*slots_, name);
    const std::span<const std::uint64_t> ids(values.data(), values.shape(0));
    const std::span<const std::uint32_t> starts(offsets.data(), offsets.shape(0));
    const bool summed = slot.summation && slot.hash_stack_rounds == 0;
    const nb::gil_scoped_release unlocked;
    try {
      owned_.push_back(summed ? satrap::one_entry_each(name, ids, starts)
                              : satrap::group_by_id(name, ids, starts));
    } catch (const std::invalid_argument& error) {
      throw satrap::DecodeError(error.what(), 0, name);
    }
    inputs_.push_back({&owned_.back(), &slot});
  }

  static nb::tuple tuple_of(FeatureTensor& tensor) {
    const std::size_t dim = tensor.slot->dim;
    nb::object values = array_of(std::move(tensor.values), {tensor.rows, dim}, kFloat16);
    if (!tensor.index) return nb::make_tuple(tensor.feature->name, dim, values);
    const std::size_t samples = tensor.feature->batch_size();
    const std::size_t columns = tensor.slot->sample_fixed_size;
    return nb::make_tuple(tensor.feature->name, dim, values,
                          array_of(std::move(tensor.index), {samples, columns}),
                          array_of(std::move(tensor.sample_id_num), {samples}), columns);
  }

  std::shared_ptr<const SlotTable> slots_;
  std::vector<nb::object> batches_;
  std::deque<IdFeature> owned_;  // addresses stay
  std::vector<LookupPlan::Input> inputs_;
  std::vector<std::size_t> sizes_;  // features of each batch
  std::optional<LookupPlan> plan_;
};

}  // namespace

void register_plan(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<Slot>(m, "Slot", "How one feature is looked up.")
      .def(
          "__init__",
          [](Slot* self, std::string name, std::uint32_t dim, bool summation, bool sqrt_scaling,
             std::uint32_t sample_fixed_size, std::uint64_t hash_stack_rounds, std::uint64_t embedding_size,
             std::uint64_t prefix) {
            new (self)
                Slot{std::move(name), dim,   summation, sqrt_scaling, sample_fixed_size, hash_stack_rounds,
                     embedding_size,  prefix};
          },
          nb::kw_only(), "name"_a, "dim"_a, "summation"_a = true, "sqrt_scaling"_a = false,
          "sample_fixed_size"_a = 10, "hash_stack_rounds"_a = 0, "embedding_size"_a = 0, "prefix"_a = 0)
      .def_ro("name", &Slot::name)
      .def_ro("dim", &Slot::dim, "Floats in a row.")
      .def_ro("summation", &Slot::summation, "Summed, or raw.")
      .def_ro("sqrt_scaling", &Slot::sqrt_scaling)
      .def_ro("sample_fixed_size", &Slot::sample_fixed_size, "Columns of a raw feature's index.")
      .def_ro("hash_stack_rounds", &Slot::hash_stack_rounds, "0: no hash stack.")
      .def_ro("embedding_size", &Slot::embedding_size, "Buckets of a round.")
      .def_ro("prefix", &Slot::prefix, "Added to signs; 0: none, and no modulus either.");

  nb::class_<SlotTable>(m, "SlotTable", "The slots by name. Raises ValueError for slots that cannot be.")
      .def(
          "__init__",
          [](SlotTable* self, unsigned prefix_bits, const std::vector<Slot>& slots) {
            new (self) SlotTable(prefix_bits, slots);
          },
          "prefix_bits"_a, "slots"_a)
      .def("__contains__",
           [](const SlotTable& self, const std::string& name) { return self.find(name) != nullptr; });

  nb::class_<Plan>(
      m, "Plan",
      "The lookups of a request, and its tensors from the rows.\n\n"
      "`batches` are DecodedBatch objects or lists of (name, values u64[nnz], offsets u32[samples + 1]); "
      "every distinct sign of a dim is asked once for all of them. Raises KeyError with the name of a "
      "feature that has no slot, DecodeError for offsets that are none. The GIL is released.")
      .def(nb::init<std::shared_ptr<const SlotTable>, const nb::sequence&, std::uint32_t>(), "slots"_a,
           "batches"_a, "replica_size"_a)
      .def("groups", &Plan::groups,
           "[(shard, dim, signs as packed little-endian u64)], by shard; shards without signs are not there.")
      .def("assemble", &Plan::assemble, "rows"_a,
           "Tensors from rows, [(dtype, bytes)] in the order of groups(); dtype is 1 (float32) or 2 "
           "(float16).\n\n"
           "Returns for each batch a list with, for each feature, (name, dim, values f16[samples, dim]) if "
           "it is "
           "summed, else (name, dim, values f16[distinct + 1, dim], index i64[samples, sample_fixed_size], "
           "sample_id_num u64[samples], sample_fixed_size). Raises ValueError for rows of the wrong size. "
           "The GIL is "
           "released.");
}
