// libckpt::Model and libckpt::Reader: out to a file and back.
#include "check.hpp"

using libckpt::Dtype;
using libckpt::Model;
using libckpt::Reader;
using libckpt::Status;

static_assert(!std::is_copy_constructible_v<Model> && std::is_nothrow_move_constructible_v<Model>);
static_assert(!std::is_copy_constructible_v<Reader> && std::is_nothrow_move_assignable_v<Reader>);

template <typename Buffer, typename = void>
constexpr bool can_add = false;
template <typename Buffer>
constexpr bool can_add<Buffer, std::void_t<decltype(std::declval<Model&>().add("a", std::declval<Buffer>(), {3}))>> =
    true;
static_assert(can_add<std::vector<float>&> && can_add<libckpt::Span<float>> && can_add<float*>);
static_assert(!can_add<std::vector<bool>&>, "bits are no buffer");

static const std::filesystem::path file = std::filesystem::path("model") / "a.keras";

struct Weights {
  std::vector<float> kernel = {1, 2, 3, 4, 5, 6};
  std::array<double, 3> bias = {7, 8, 9};
  bool mask[2] = {true, false};
  std::int32_t step = 10;
  std::uint16_t half[2] = {0x3c00, 0x4000};
  std::vector<float> nothing;

  Model describe() {
    Model model;
    model.add("layers/dense/vars/0", kernel, {3, 2})
        .add("layers/dense/vars/1", bias, {3})
        .add("layers/dense/vars/2", mask, {2})
        .add(std::string("optimizer/vars/0"), &step, {})
        .add("half", Dtype::F16, half, {2})
        .add("nothing", nothing, {0, 5})
        .set_name("layers/dense", "dense")
        .set_config(R"({"module": "keras", "class_name": "Sequential", "config": {}})")
        .set_asset("layers/words/vocabulary.txt", std::string_view("a\nb\n"))
        .set_asset("nothing", std::vector<std::uint8_t>());
    return model;
  }
};

static void saves_and_loads() {
  Weights weights, loaded{{0, 0, 0, 0, 0, 0}, {}, {}, 0, {}, {}};
  weights.describe().save(file);
  Model model = loaded.describe();
  const Reader reader(file);
  reader.verify();
  reader.load(model);
  CHECK(loaded.kernel == weights.kernel && loaded.bias == weights.bias && loaded.step == 10);
  CHECK(loaded.mask[0] && !loaded.mask[1] && loaded.half[0] == 0x3c00 && loaded.half[1] == 0x4000);

  // Turned around: a kernel that lies [2, 3] in memory is the file's [3, 2].
  std::vector<float> turned(6), other(6);
  Model transposed;
  transposed.add("layers/dense/vars/0", turned.data(), {3, 2}, {1, 3});
  reader.load(transposed);
  CHECK((turned == std::vector<float>{1, 3, 5, 2, 4, 6}));
  transposed.set_data("layers/dense/vars/0", other.data());
  reader.load(transposed);
  CHECK(other == turned);
}

static void lists_and_reads() {
  Reader opened(file.string());
  const Reader reader = std::move(opened);
  std::size_t seen = 0;
  for (const libckpt::TensorInfo& tensor : reader) {
    CHECK(tensor.index == seen++);
    CHECK(reader.find(std::string(tensor.path)).value().index == tensor.index);
  }
  CHECK(seen == 6 && reader.size() == 6);
  CHECK(std::distance(reader.begin(), reader.end()) == 6);

  const libckpt::TensorInfo kernel = reader.find("layers/dense/vars/0").value();
  CHECK(kernel.path == "layers/dense/vars/0" && kernel.dtype == Dtype::F32 && kernel.nbytes == 24);
  CHECK(kernel.shape.size() == 2 && kernel.shape[0] == 3 && kernel.shape[1] == 2);
  CHECK((reader.read<float>("layers/dense/vars/0") == std::vector<float>{1, 2, 3, 4, 5, 6}));
  CHECK(reader.read<std::int32_t>("optimizer/vars/0") == std::vector<std::int32_t>{10});
  CHECK(reader.read<float>("nothing").empty());
  CHECK(reader.tensor(reader.find("half")->index).dtype == Dtype::F16);
  bool mask[2];
  reader.read(reader.find("layers/dense/vars/2")->index, mask, sizeof mask);
  CHECK(mask[0] && !mask[1]);

  CHECK(!reader.find("layers/dense"));
  throws([&] { reader.read<float>("none"); }, Status::NotFound, "'none'");
  throws([&] { reader.read<double>("layers/dense/vars/0"); }, Status::Mismatch, "layers/dense/vars/0");
  throws([&] { reader.read(0, mask, 1); }, Status::Mismatch, "dst_bytes is 1");
  throws([&] { reader.tensor(6); }, Status::InvalidArgument, "index is 6");
  CHECK(opened.size() == 0);  // moved from
  throws([&] { opened.verify(); }, Status::InvalidArgument, "reader is NULL");
  throws([] { Reader("model/none.keras"); }, Status::NotFound, "model/none.keras");
}

static void loads_what_differs() {
  using libckpt::Load;
  const Reader reader(file, libckpt::Open::NoHdf5Library);
  std::array<double, 6> kernel{};
  std::vector<float> other(5, -1);
  Model model;
  model.add("mine/vars/0", kernel, {3, 2}).add("mine/vars/9", other, {5});
  throws([&] { reader.load(model, Load::Exact, {{"layers/dense", "mine"}}); }, Status::Mismatch, "mine/vars/0");
  CHECK(reader.load(model, Load::ConvertFloats | Load::Partial, {{"layers/dense", "mine"}}) == 1);
  CHECK(kernel[5] == 6 && other[0] == -1);
  CHECK(model.skipped().size() == 1 && model.skipped()[0].path == "mine/vars/9");
  CHECK(model.skipped()[0].reason.find("'layers/dense/vars/9' ('mine/vars/9' in the model)") != std::string::npos);
  CHECK(reader.load(model, Load::SkipMismatch) == 0 && model.skipped().size() == 2);
  const std::vector<libckpt::Rename> renames = {{"layers/dense", "mine"}, {"half", "x"}};
  CHECK(reader.load(model, Load::ConvertFloats | Load::Partial | Load::Unverified, renames) == 1);
  throws([&] { reader.load(model, static_cast<Load>(16)); }, Status::InvalidArgument, "no flag 0x10");
  throws([&] { Reader(file, static_cast<libckpt::Open>(2)); }, Status::InvalidArgument, "no flag 0x2");
}

static void tells_what_a_file_holds() {
  const Reader reader(file);
  CHECK(reader.config()->find("Sequential") != std::string_view::npos);
  CHECK(reader.metadata()->find("keras_version") != std::string_view::npos && reader.state()->front() == '{');
  CHECK(reader.name("layers/dense") == "dense" && !reader.name("layers/none"));
  CHECK(reader.groups().size() == 1 && reader.groups()[0].first == "layers/dense");
  CHECK(reader.assets().size() == 2 && reader.assets()[0] == "layers/words/vocabulary.txt");
  CHECK(reader.asset("layers/words/vocabulary.txt")->size() == 4 && reader.asset("nothing")->empty());
  CHECK(!reader.asset("none"));
  throws([] { libckpt::convert("model/none.keras", "model/b.txt"); }, Status::Unsupported, "model/b.txt");
}

static void refuses() {
  std::vector<float> kernel(6);
  Model model;
  throws([&] { model.add("a", kernel, {3, 3}); }, Status::Mismatch, "the buffer of tensor 'a' has 6 elements");
  throws([&] { model.add("a", kernel.data(), {3, 2}, {1}); }, Status::InvalidArgument, "has 2 axes, but 1 strides");
  throws([&] { model.add("a", kernel.data(), {3, -2}); }, Status::InvalidArgument, "shape[1]");
  throws([&] { model.add("a/", kernel, {6}); }, Status::InvalidArgument, "path");
  throws([&] { model.set_config("{"); }, Status::InvalidArgument, "JSON");
  throws([&] { model.set_asset("../a", std::string("x")); }, Status::InvalidArgument, "asset name '../a'");
  throws([&] { model.set_data("a", kernel.data()); }, Status::NotFound, "'a'");
  throws([&] { model.set_metadata("a\xff", "b"); }, Status::InvalidArgument, "key is not UTF-8");
  throws([&] { model.save("model/a.txt"); }, Status::Unsupported, "model/a.txt");

  Model moved = std::move(model);
  throws([&] { model.add("a", kernel, {6}); }, Status::InvalidArgument, "model is NULL");
  model = std::move(moved);
  model.add("a", kernel, {6});
}

int main() {
  fresh_directory("model");
  saves_and_loads();
  lists_and_reads();
  loads_what_differs();
  tells_what_a_file_holds();
  refuses();
  return 0;
}
