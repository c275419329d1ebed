// libckpt::Model::add_source: tensors that only two functions can see.
#include "check.hpp"

using libckpt::Dtype;
using libckpt::Model;
using libckpt::Reader;
using libckpt::Status;

static const std::filesystem::path file = std::filesystem::path("sources") / "a.weights.h5";

// Adds a tensor that is on a device: in a vector that the model alone knows.
static void add(Model& model, const std::shared_ptr<std::vector<float>>& device) {
  model.add_source(
      "layers/dense/vars/0", Dtype::F32, {static_cast<std::int64_t>(device->size())},
      [device](void* dst, std::uint64_t offset, std::uint64_t nbytes) {
        std::memcpy(dst, reinterpret_cast<const char*>(device->data()) + offset, nbytes);
      },
      [device](const void* src, std::uint64_t offset, std::uint64_t nbytes) {
        std::memcpy(reinterpret_cast<char*>(device->data()) + offset, src, nbytes);
      });
}

static void saves_and_loads() {
  std::vector<float> values(3 << 20);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  auto device = std::make_shared<std::vector<float>>(values);
  std::weak_ptr<std::vector<float>> kept = device;
  {
    Model first;
    add(first, device);
    device.reset();
    CHECK(!kept.expired());
    Model model = std::move(first);
    model.save(file);
    CHECK(Reader(file).read<float>("layers/dense/vars/0") == values);
  }
  CHECK(kept.expired());

  auto zeros = std::make_shared<std::vector<float>>(values.size());
  Model loaded;
  add(loaded, zeros);
  Reader(file).load(loaded);
  CHECK(*zeros == values);
  throws([&] { loaded.set_data("layers/dense/vars/0", values.data()); }, Status::InvalidArgument, "no memory");
}

// A model of one tensor whose functions throw.
template <typename Thrown>
static Model throwing(Thrown thrown) {
  Model model;
  model.add_source(
      "layers/dense/vars/0", Dtype::F32, {3 << 20}, [thrown](void*, std::uint64_t, std::uint64_t) { throw thrown; },
      [thrown](const void*, std::uint64_t, std::uint64_t) { throw thrown; });
  return model;
}

static void what_is_thrown_goes_through_c() {
  const Reader reader(file);
  Model model = throwing(std::runtime_error("the device fell off the bus"));
  const char* says = "returned CKPT_E_IO: the device fell off the bus";
  throws([&] { model.save(file); }, Status::Io, says);
  throws([&] { reader.load(model); }, Status::Io, says);
  throws([&] { reader.load(model, libckpt::Load::Partial); }, Status::Io, says);
  libckpt::Session session("sources/{epoch}.weights.h5", libckpt::Options().save_weights_only());
  session.on_epoch_end(0, {{"val_loss", 0.5}});
  throws([&] { session.save(model); }, Status::Io, says);
  reader.verify();

  // An error's own status; and none of the former text where another failure comes.
  model = throwing(libckpt::Error(Status::NoSpace, "out of device memory"));
  throws([&] { model.save(file); }, Status::NoSpace, "returned CKPT_E_NO_SPACE: out of device memory");
  try {
    model.save("sources/a.txt");
    CHECK(!"saved");
  } catch (const libckpt::Error& error) {
    CHECK(std::strstr(error.what(), "device") == nullptr);
  }
  model = throwing(7);
  throws([&] { model.save(file); }, Status::Io, "an exception of an unknown type");
}

static void refuses() {
  Model model;
  const auto nothing = [](void*, std::uint64_t, std::uint64_t) {};
  throws([&] { model.add_source("a", Dtype::F32, {3}, nullptr); }, Status::InvalidArgument, "fetch is NULL");
  throws([&] { model.add_source("a", Dtype::F32, {-3}, nothing); }, Status::InvalidArgument, "shape[0]");
  model.add_source("layers/dense/vars/0", Dtype::F32, {3 << 20}, nothing);
  throws([&] { Reader(file).load(model); }, Status::Unsupported, "has no put function");
}

int main() {
  fresh_directory("sources");
  saves_and_loads();
  what_is_thrown_goes_through_c();
  refuses();
  return 0;
}
