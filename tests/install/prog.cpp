// An outsider's program in C++: saves a small model, reads it back, and compares.
#include <ckpt.hpp>

#include <cstdio>
#include <vector>

int main(int argc, char** argv) {
  const char* path = argc > 1 ? argv[1] : "prog_cpp.weights.h5";
  std::vector<float> kernel = {1, 2, 3, 4, 5, 6}, bias = {-1, 0.5f};
  try {
    libckpt::Model model;
    model.add("layers/dense/vars/0", kernel, {3, 2});
    model.add("layers/dense/vars/1", bias, {2});
    model.set_name("layers/dense", "dense");
    model.save(path);
    const libckpt::Reader reader(path);
    if (reader.size() != 2 || reader.read<float>("layers/dense/vars/0") != kernel ||
        reader.read<float>("layers/dense/vars/1") != bias) {
      std::fprintf(stderr, "what came back is not what was saved\n");
      return 1;
    }
  } catch (const libckpt::Error& error) {
    std::fprintf(stderr, "%s: %s\n", libckpt::status_name(error.status()), error.what());
    return 1;
  }
  std::printf("C++: saved and read %s\n", path);
  return 0;
}
