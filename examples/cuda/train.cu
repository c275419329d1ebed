// Trains a network of two layers on handwritten digits, on a GPU, in plain CUDA. The best weights are saved in the
// background, straight from the device, while the next batches are being learned; a training that was interrupted goes on.
//
//   gzip -dc digits.csv.gz | train [DIRECTORY [PREDICTIONS]]
//
// The checkpoints go to DIRECTORY ("checkpoints"): the weights of keras.Sequential([Input((64,)), Dense(64, "relu"),
// Dense(10, "softmax")]) under SGD with momentum. PREDICTIONS gets what the best ones give for the last 360 digits.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <ckpt_cuda.h>

namespace {

constexpr int pixels = 64, hidden = 64, classes = 10, validation = 360, batch_size = 32, threads = 256;
constexpr std::uint64_t epochs = 20;
constexpr float learning_rate = 0.01f, momentum = 0.9f;

void check(ckpt_status status) {
  if (status == CKPT_OK) return;
  std::fprintf(stderr, "%s\n", ckpt_last_error());
  std::exit(1);
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

// A thread for each of n elements.
#define LAUNCH(kernel, n, stream, ...) \
  (kernel<<<((n) + threads - 1) / threads, threads, 0, stream>>>(__VA_ARGS__), check(cudaGetLastError()))

__device__ int index() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

// rows of x, in this order
__global__ void pick(const float *x, const int *order, int n, float *out) {
  const int i = index();
  if (i < n * pixels) out[i] = x[order[i / pixels] * pixels + i % pixels];
}

// y = x w + b, or what is positive of it
__global__ void forward(const float *x, const float *w, const float *b, float *y, int n, int in, int out, bool relu) {
  const int i = index();
  if (i >= n * out) return;
  const int row = i / out, column = i % out;
  float sum = b[column];
  for (int k = 0; k < in; ++k) sum += x[row * in + k] * w[k * out + column];
  y[i] = relu ? fmaxf(sum, 0.0f) : sum;
}

// logits to probabilities
__global__ void softmax(float *y, int n) {
  const int row = index();
  if (row >= n) return;
  float *p = y + row * classes;
  float most = p[0], sum = 0.0f;
  for (int c = 1; c < classes; ++c) most = fmaxf(most, p[c]);
  for (int c = 0; c < classes; ++c) sum += p[c] = expf(p[c] - most);
  for (int c = 0; c < classes; ++c) p[c] /= sum;
}

// the gradient of the mean cross-entropy with respect to the logits
__global__ void gradient(const float *p, const int *labels, const int *order, float *dy, int n) {
  const int i = index();
  if (i < n * classes) dy[i] = (p[i] - (labels[order[i / classes]] == i % classes ? 1.0f : 0.0f)) / static_cast<float>(n);
}

// that with respect to w, and in the row behind it to b
__global__ void backward(const float *x, const float *dy, float *dw, float *db, int n, int in, int out) {
  const int i = index();
  if (i >= (in + 1) * out) return;
  const int k = i / out, column = i % out;
  float sum = 0.0f;
  for (int row = 0; row < n; ++row) sum += dy[row * out + column] * (k < in ? x[row * in + k] : 1.0f);
  (k < in ? dw[i] : db[column]) = sum;
}

// that with respect to x, which what is not positive has let nothing through of
__global__ void through(const float *x, const float *w, const float *dy, float *dx, int n, int in, int out) {
  const int i = index();
  if (i >= n * in) return;
  const int row = i / in, k = i % in;
  float sum = 0.0f;
  for (int column = 0; column < out; ++column) sum += dy[row * out + column] * w[k * out + column];
  dx[i] = x[i] > 0.0f ? sum : 0.0f;
}

// a step of SGD with momentum, as Keras makes it
__global__ void step(float *value, float *velocity, const float *gradient, int n) {
  const int i = index();
  if (i < n) value[i] += velocity[i] = momentum * velocity[i] - learning_rate * gradient[i];
}

template <typename T>
T *on_device(const std::vector<T> &values) {
  void *memory = nullptr;
  check(cudaMalloc(&memory, values.size() * sizeof(T)));
  check(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return static_cast<T *>(memory);
}

float *zeros(std::size_t n) { return on_device(std::vector<float>(n)); }

std::uint32_t next_random(std::uint32_t &state) { return (state = state * 1664525u + 1013904223u) >> 8; }

// The variables of a layer, with their velocities and gradients.
struct Dense {
  struct Variable {
    float *value, *velocity, *gradient;
  };
  int in, out;
  Variable kernel, bias;

  Dense(int in, int out, std::uint32_t seed) : in(in), out(out) {
    std::vector<float> values(static_cast<std::size_t>(in) * out);
    const float limit = std::sqrt(6.0f / static_cast<float>(in + out));
    for (float &value : values) value = limit * (static_cast<float>(next_random(seed)) / 8388608.0f - 1.0f);
    kernel = {on_device(values), zeros(values.size()), zeros(values.size())};
    bias = {zeros(out), zeros(out), zeros(out)};
  }
  void learn(cudaStream_t stream) {
    LAUNCH(step, in * out, stream, kernel.value, kernel.velocity, kernel.gradient, in * out);
    LAUNCH(step, out, stream, bias.value, bias.velocity, bias.gradient, out);
  }
};

struct Digits {
  std::vector<float> pixels;
  std::vector<int> labels;
};

Digits read_csv() {
  Digits digits;
  int number = 0;
  while (std::scanf("%d", &number) == 1) {
    for (int i = 0; i < ::pixels; ++i) {
      digits.pixels.push_back(static_cast<float>(number) / 16.0f);
      if (std::scanf(",%d", &number) != 1) return {};
    }
    digits.labels.push_back(number);
  }
  return digits;
}

// Under Keras' paths, which number the layers of a class, and the optimizer's variables.
ckpt_model *describe(Dense *layers, std::int32_t *iteration, float *rate, cudaStream_t stream) {
  static const char *const names[] = {"layers/dense", "layers/dense_1"};
  ckpt_model *model = nullptr;
  int slot = 2;
  check(ckpt_model_new(&model));
  check(ckpt_model_add(model, "optimizer/vars/0", CKPT_DTYPE_I32, 0, nullptr, nullptr, iteration));
  check(ckpt_model_add(model, "optimizer/vars/1", CKPT_DTYPE_F32, 0, nullptr, nullptr, rate));
  for (int i = 0; i < 2; ++i) {
    const Dense &layer = layers[i];
    const std::int64_t kernel[] = {layer.in, layer.out}, bias[] = {layer.out};
    const auto add = [&](const std::string &path, std::size_t rank, const std::int64_t *shape, float *memory) {
      check(ckpt_cuda_add(model, path.c_str(), CKPT_DTYPE_F32, rank, shape, memory, stream));
    };
    add(std::string(names[i]) + "/vars/0", 2, kernel, layer.kernel.value);
    add(std::string(names[i]) + "/vars/1", 1, bias, layer.bias.value);
    add("optimizer/vars/" + std::to_string(slot++), 2, kernel, layer.kernel.velocity);
    add("optimizer/vars/" + std::to_string(slot++), 1, bias, layer.bias.velocity);
    check(ckpt_model_set_name(model, names[i], names[i] + sizeof "layers/" - 1));
  }
  return model;
}

}  // namespace

int main(int argc, char **argv) {
  const std::string directory = argc > 1 ? argv[1] : "checkpoints";
  const Digits digits = read_csv();
  const int n = static_cast<int>(digits.labels.size()), learns = n - validation;
  if (learns <= 0) return std::fprintf(stderr, "standard input has too few digits\n"), 1;

  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  Dense layers[] = {{pixels, hidden, 7}, {hidden, classes, 8}};
  const float *x = on_device(digits.pixels);
  const int *labels = on_device(digits.labels);
  std::vector<int> order(learns);
  int *rows = on_device(order);
  float *batch = zeros(batch_size * pixels), *h = zeros(validation * hidden), *p = zeros(validation * classes);
  float *dp = zeros(batch_size * classes), *dh = zeros(batch_size * hidden);
  std::int32_t iteration = 0;
  float rate = learning_rate;
  ckpt_model *model = describe(layers, &iteration, &rate, stream);

  ckpt_options *options;
  ckpt *session;
  check(ckpt_options_new(&options));
  check(ckpt_options_set_save_best_only(options, true));  // by "val_loss"
  check(ckpt_options_set_save_weights_only(options, true));
  check(ckpt_options_set_async(options, CKPT_ASYNC_BORROW));
  check(ckpt_options_set_verbose(options, 1));
  check(ckpt_new((directory + "/{epoch:02d}-{val_loss:.3f}.weights.h5").c_str(), options, &session));
  ckpt_options_free(options);
  ckpt_resume_info from{};
  const ckpt_status resumed = ckpt_resume(session, model, &from);
  if (resumed != CKPT_E_NOT_FOUND) check(resumed);

  const auto predict = [&](const float *of, int count) {
    LAUNCH(forward, count * hidden, stream, of, layers[0].kernel.value, layers[0].bias.value, h, count, pixels, hidden, true);
    LAUNCH(forward, count * classes, stream, h, layers[1].kernel.value, layers[1].bias.value, p, count, hidden, classes, false);
    LAUNCH(softmax, count, stream, p, count);
  };
  std::vector<float> predictions(validation * classes);
  const auto evaluate = [&] {
    double loss = 0.0, right = 0.0;
    predict(x + static_cast<std::ptrdiff_t>(learns) * pixels, validation);
    check(cudaMemcpyAsync(predictions.data(), p, predictions.size() * sizeof(float), cudaMemcpyDeviceToHost, stream));
    check(cudaStreamSynchronize(stream));
    for (int i = 0; i < validation; ++i) {
      const float *row = &predictions[static_cast<std::size_t>(i) * classes];
      int best = 0;
      for (int c = 1; c < classes; ++c)
        if (row[c] > row[best]) best = c;
      loss -= std::log(std::fmax(row[digits.labels[learns + i]], 1e-7f));
      right += best == digits.labels[learns + i];
    }
    return std::pair<double, double>(loss / validation, right / validation);
  };

  for (std::uint64_t epoch = from.epoch; epoch < epochs; ++epoch) {
    std::uint32_t random = static_cast<std::uint32_t>(epoch) + 1;  // so that an epoch is the same in a training that goes on
    for (int i = 0; i < learns; ++i) {
      const auto j = next_random(random) % static_cast<std::uint32_t>(i + 1);
      order[i] = order[j];
      order[j] = i;
    }
    check(cudaMemcpyAsync(rows, order.data(), order.size() * sizeof(int), cudaMemcpyHostToDevice, stream));
    for (int begin = 0; begin < learns; begin += batch_size) {
      const int count = std::min(batch_size, learns - begin);
      LAUNCH(pick, count * pixels, stream, x, rows + begin, count, batch);
      predict(batch, count);
      LAUNCH(gradient, count * classes, stream, p, labels, rows + begin, dp, count);
      LAUNCH(backward, (hidden + 1) * classes, stream, h, dp, layers[1].kernel.gradient, layers[1].bias.gradient, count, hidden,
             classes);
      LAUNCH(through, count * hidden, stream, h, layers[1].kernel.value, dp, dh, count, hidden, classes);
      LAUNCH(backward, (pixels + 1) * hidden, stream, batch, dh, layers[0].kernel.gradient, layers[0].bias.gradient, count,
             pixels, hidden);
      // Up to here the weights were only read: a save may be under way. It has to have read them before they change.
      check(ckpt_cuda_wait(session, stream));
      for (Dense &layer : layers) layer.learn(stream);
      ++iteration;
    }
    const auto [val_loss, val_acc] = evaluate();
    std::printf("Epoch %d/%d  val_loss %.4f  val_acc %.4f\n", static_cast<int>(epoch) + 1, static_cast<int>(epochs), val_loss,
                val_acc);
    const ckpt_metric logs[] = {{"val_loss", val_loss}, {"val_acc", val_acc}};
    check(ckpt_on_epoch_end(session, epoch, logs, 2));
    if (ckpt_should_save(session)) check(ckpt_save(session, model));  // returns at once
  }
  check(ckpt_wait(session));

  check(ckpt_load_best(session, model));
  const auto [loss, accuracy] = evaluate();
  const char *best;
  check(ckpt_best_path(session, &best));
  std::printf("The best is %s: val_loss %.4f, %.1f%% of %d digits\n", best, loss, 100.0 * accuracy, validation);
  if (argc > 2) {
    std::FILE *out = std::fopen(argv[2], "w");
    for (std::size_t i = 0; out != nullptr && i < predictions.size(); ++i)
      std::fprintf(out, "%.9g%c", static_cast<double>(predictions[i]), i % classes + 1 < classes ? ',' : '\n');
    if (out == nullptr || std::fclose(out) != 0) return std::fprintf(stderr, "cannot write %s\n", argv[2]), 1;
  }
  ckpt_free(session);
  ckpt_model_free(model);
  check(cudaDeviceReset());
  return 0;
}
