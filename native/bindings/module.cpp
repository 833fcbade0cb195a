// satrap._core: a table of contents. Each concept registers itself in a file of its own.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void register_batch(nb::module_& m);           // _core.batch: PERSIA's batch bytes
void register_embedding_file(nb::module_& m);  // _core.embedding_file: PERSIA's .emb files
void register_ids(nb::module_& m);             // _core.ids: hash, prefix, hash stack, dedup, split
void register_plan(nb::module_& m);            // _core.plan: a batch's lookups, and its tensors from rows
void register_table(nb::module_& m);           // _core.table: rows by sign

NB_MODULE(_core, m) {
  m.doc() = "satrap's native core.";
  auto batch = m.def_submodule("batch", "PERSIA's batch bytes.");
  auto embedding_file = m.def_submodule("embedding_file", "PERSIA's checkpoint files.");
  auto ids = m.def_submodule("ids", "Kernels over ids.");
  auto plan = m.def_submodule("plan", "A batch's lookups, and its tensors from rows.");
  auto table = m.def_submodule("table", "Rows by sign.");
  register_batch(batch);
  register_embedding_file(embedding_file);
  register_ids(ids);
  register_plan(plan);
  register_table(table);
}
