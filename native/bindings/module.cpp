// satrap._core: a table of contents. Each concept registers itself in a file of its own.
#include <nanobind/nanobind.h>

#include "satrap/byte_reader.h"

namespace nb = nanobind;

void register_batch(nb::module_& m);             // _core.batch: PERSIA's batch bytes
void register_embedding_file(nb::module_& m);    // _core.embedding_file: PERSIA's .emb and .inc files
void register_ids(nb::module_& m);               // _core.ids: hash, prefix, hash stack, dedup, split
void register_plan(nb::module_& m);              // _core.plan: a batch's lookups, and its tensors from rows
void register_rows(nb::module_& m);              // _core.rows: what is asked of rows before a table has them
void register_table(nb::module_& m);             // _core.table: rows by sign
void register_table_generation(nb::module_& m);  // _core.table: generations of tables in folders
void register_table_reader(nb::module_& m);      // _core.table: generations that another process writes

namespace {

// satrap::DecodeError becomes a Python exception of this name with the attributes message, offset and field.
void register_decode_error(nb::module_& m) {
  // The module keeps the class alive as long as the translator can be called.
  static PyObject* type = nullptr;
  type = PyErr_NewExceptionWithDoc(
      "satrap._core.DecodeError",
      "Bytes are not what they should be: `message` says what, at byte `offset`, in "
      "`field`.",
      PyExc_ValueError, nullptr);
  m.attr("DecodeError") = nb::handle(type);
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const satrap::DecodeError& error) {
      nb::object instance = nb::handle(type)(error.what());
      instance.attr("message") = error.what();
      instance.attr("offset") = error.offset;
      instance.attr("field") = error.field.c_str();
      PyErr_SetObject(type, instance.ptr());
    }
  });
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "satrap's native core.";
  register_decode_error(m);
  auto batch = m.def_submodule("batch", "PERSIA's batch bytes.");
  auto embedding_file = m.def_submodule("embedding_file", "PERSIA's checkpoint files and packets.");
  auto ids = m.def_submodule("ids", "Kernels over ids.");
  auto plan = m.def_submodule("plan", "A batch's lookups, and its tensors from rows.");
  auto rows = m.def_submodule("rows", "What is asked of rows before a table has them.");
  auto table = m.def_submodule("table", "Rows by sign.");
  register_batch(batch);
  register_embedding_file(embedding_file);
  register_ids(ids);
  register_plan(plan);
  register_rows(rows);
  register_table(table);
  register_table_generation(table);
  register_table_reader(table);
}
