# clip_pkg with its pinned packages. PyTorch's wheels bring CUDA; the host needs NVIDIA's driver and container
# toolkit for GPUs, and nothing for CPUs.
#
#   docker build -t clip_pkg .
#   docker run --rm clip_pkg demo
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u)" -v "$PWD:/home/clip/work" -w /home/clip/work \
#       clip_pkg --data-dir images --output-dir results --config-file configs.json --multi-config
#
# A smaller image for CPUs only: --build-arg TORCH_INDEX=… with the address of PyTorch's index of CPU wheels; hashes,
# which are those of the package index, are then not compared.
FROM python:3.12-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

ARG TORCH_INDEX=
WORKDIR /opt/clip_pkg
COPY environment/runtime.lock environment/
RUN if [ -z "$TORCH_INDEX" ]; then \
      pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r environment/runtime.lock; \
    else \
      sed -nE 's/^([a-z][^ ]*==[^\\]*).*/\1/p' environment/runtime.lock | grep -vE '^(nvidia|cuda|triton)' >pins \
      && pip install --no-cache-dir --no-deps --only-binary :all: --extra-index-url "$TORCH_INDEX" -r pins \
      && rm pins; \
    fi

COPY pyproject.toml LICENSE ./
COPY docs/pypi.md docs/
COPY clip_pkg clip_pkg
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
    && useradd --create-home --uid 1000 clip

USER 1000
WORKDIR /home/clip
ENTRYPOINT ["clip-pkg"]
CMD ["--help"]
