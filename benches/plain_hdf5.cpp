// The HDF5 C API as a C++ program would plainly use it: a group a layer, a dataset a tensor (see worker.h).
#include <hdf5.h>

#include <cstdio>
#include <map>
#include <string>

#include "worker.h"

namespace {

void must(bool fine, const char *what) {
  if (!fine) fail(what);
}

hid_t group_of(hid_t file, std::map<std::string, hid_t> &groups, const std::string &path) {
  auto [it, added] = groups.try_emplace(path, -1);
  if (added) {
    hid_t create = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(create, 1);
    it->second = H5Gcreate2(file, path.c_str(), create, H5P_DEFAULT, H5P_DEFAULT);
    H5Pclose(create);
    must(it->second >= 0, "H5Gcreate2");
  }
  return it->second;
}

// save NAME: nothing is flushed to the disk.
void save(int, char **args) {
  double start = now(), cpu = cpu_now();
  hid_t file = H5Fcreate(args[0], H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  must(file >= 0, "H5Fcreate");
  std::map<std::string, hid_t> groups;
  hsize_t elements = model.bytes_each / sizeof(float);
  hid_t space = H5Screate_simple(1, &elements, nullptr);
  for (size_t i = 0; i < model.count; i++) {
    char path[64];
    path_of(i, path);
    std::string whole = path;
    size_t slash = whole.rfind('/');
    hid_t group = group_of(file, groups, whole.substr(0, slash));
    hid_t set = H5Dcreate2(group, whole.substr(slash + 1).c_str(), H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT,
                           H5P_DEFAULT);
    must(set >= 0, "H5Dcreate2");
    must(H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, model.data[i]) >= 0, "H5Dwrite");
    H5Dclose(set);
  }
  H5Sclose(space);
  for (auto &group : groups) H5Gclose(group.second);
  must(H5Fclose(file) >= 0, "H5Fclose");
  std::printf("{\"secs\": %.9f, \"cpu\": %.9f}\n", now() - start, cpu_now() - cpu);
}

}  // namespace

int main(int argc, char **argv) {
  const command commands[] = {{"save", save}, {nullptr, nullptr}};
  const command *const tables[] = {commands, nullptr};
  return work(argc, argv, tables);
}
