/* Measures llama.cpp's Vulkan back end on one file; benches/gpu.sh builds it and carries it to the other machine.
 *
 *   llama_cpp FOLDER MODEL PROMPT_TOKENS NEW_TOKENS RUNS     with llama.cpp's libraries in FOLDER
 *
 * prefill  prompt tokens / time from submitting the prompt to knowing the first new token
 * decode   new tokens after that one / the time they took, greedily chosen
 *
 * One whole round runs unmeasured, since pipelines are compiled at first use; then medians of the rounds are printed as
 * one JSON object. It fails unless all layers are on one Vulkan device, because llama.cpp takes the CPU without a word. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ggml-backend.h"
#include "llama.h"

static int offloaded = 0, layers = -1;
static char matrix_cores[32] = "unknown";

static void hear(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    const char *found = strstr(text, "offloaded ");
    if (found) sscanf(found, "offloaded %d/%d layers", &offloaded, &layers);
    const char *cores = strstr(text, "matrix cores: ");
    if (cores) sscanf(cores, "matrix cores: %31s", matrix_cores);
    if ((level >= GGML_LOG_LEVEL_INFO && level <= GGML_LOG_LEVEL_ERROR) || cores) fputs(text, stderr);
}

static void fail(const char *reason) {
    fprintf(stderr, "llama_cpp: %s\n", reason);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, count, sizeof *values, ascending);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static llama_token best(struct llama_context *context, int vocabulary) {
    const float *logits = llama_get_logits_ith(context, -1);
    /* Two loops, of which the compiler makes vectors of the first, so that they do not count. */
    float most = logits[0];
    for (int i = 1; i < vocabulary; i++) most = logits[i] > most ? logits[i] : most;
    llama_token best = 0;
    while (best < vocabulary - 1 && logits[best] != most) best++;
    return best;
}

/* The Vulkan device, if there is exactly one. */
static ggml_backend_dev_t device(void) {
    ggml_backend_dev_t found = NULL;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t each = ggml_backend_dev_get(i);
        if (strcmp(ggml_backend_reg_name(ggml_backend_dev_backend_reg(each)), "Vulkan")) continue;
        if (found) fail("there are several Vulkan devices; choose one with GGML_VK_VISIBLE_DEVICES");
        found = each;
    }
    if (!found) fail("there is no Vulkan device; one of type CPU must be named in GGML_VK_VISIBLE_DEVICES");
    return found;
}

int main(int count, char **arguments) {
    if (count != 6) fail("llama_cpp FOLDER MODEL PROMPT_TOKENS NEW_TOKENS RUNS");
    int prompt = atoi(arguments[3]), answer = atoi(arguments[4]), runs = atoi(arguments[5]);
    if (prompt < 1 || answer < 1 || runs < 1) fail("the counts are whole numbers from 1");

    llama_log_set(hear, NULL);
    ggml_backend_load_all_from_path(arguments[1]);
    llama_backend_init();
    ggml_backend_dev_t devices[] = {device(), NULL};

    struct llama_model_params model_params = llama_model_default_params();
    model_params.devices = devices;
    model_params.n_gpu_layers = -1;
    struct llama_model *model = llama_model_load_from_file(arguments[2], model_params);
    if (!model) fail("the model was not loaded");
    if (offloaded != layers) fail("not all layers are on the Vulkan device");

    struct llama_context_params context_params = llama_context_default_params();
    context_params.n_ctx = prompt + answer + 1;
    context_params.n_batch = prompt;
    struct llama_context *context = llama_init_from_model(model, context_params);
    if (!context) fail("there is no context");

    int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    llama_token *tokens = malloc(prompt * sizeof *tokens);
    double *prefill = malloc(runs * sizeof *prefill), *decode = malloc(runs * sizeof *decode);
    /* The same tokens as `benben bench`: any would do. */
    for (int i = 0; i < prompt; i++) tokens[i] = (1000 + 7 * i % 4096) % vocabulary;

    for (int run = -1; run < runs; run++) {
        llama_memory_clear(llama_get_memory(context), true);
        double start = now();
        if (llama_decode(context, llama_batch_get_one(tokens, prompt))) fail("the prompt did not run");
        llama_token next = best(context, vocabulary);
        double first = now();
        for (int i = 0; i < answer; i++) {
            if (llama_decode(context, llama_batch_get_one(&next, 1))) fail("a token did not run");
            next = best(context, vocabulary);
        }
        double end = now();
        if (run < 0) continue;
        prefill[run] = prompt / (first - start);
        decode[run] = answer / (end - first);
    }
    printf("{\"program\": \"llama.cpp %s\", \"adapter\": \"%s\", \"layers_on_it\": \"%d/%d\", \"matrix_cores\": \"%s\", "
           "\"prompt_tokens\": %d, \"max_tokens\": %d, \"runs\": %d, "
           "\"prefill_tokens_per_second\": %.2f, \"decode_tokens_per_second\": %.2f}\n",
           LLAMA_CPP, ggml_backend_dev_description(devices[0]), offloaded, layers, matrix_cores, prompt, answer, runs,
           median(prefill, runs), median(decode, runs));
    llama_free(context);
    llama_model_free(model);
    return 0;
}
