#include <nanobind/nanobind.h>

void register_embedding_file(nanobind::module_&) {}
