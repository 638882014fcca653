# The image of the classification service. It contains no model: bundles are mounted at /app/models.
#
#   docker build .                                               CPU, official Python base, vendor's CPU wheels of torch
#   docker build --build-arg FLAVOR=cu124 .                      CUDA 12.4; cu130: CUDA 13.0
#   docker build --build-arg FLAVOR=cu124 --build-arg CUDA_LIBRARIES=whole .    with what a classifier never calls, too
#   docker build --target gateway .                              HAProxy, which stands in front of the instances
#   docker build --target test .                                 the service plus pytest
#
# Where no registry answers, scripts/docker-build.sh makes a base from the distribution's packages and passes
# BUILDER_BASE, RUNTIME_BASE and, for the cpu flavor, TORCH_SOURCE=distribution.
# Secrets, all optional: ca (PEM bundle of a private CA), pipconf (a pip.conf). Wheels in wheelhouse/ are preferred
# when their hashes are in the locks; --build-arg PIP_NO_INDEX=1 uses nothing else.

ARG BUILDER_BASE=python:3.12-slim-bookworm
ARG RUNTIME_BASE=python:3.12-slim-bookworm
ARG TORCH_SOURCE=wheel

# --- What both the build and the result stand on ---------------------------------------------------------------------

FROM ${RUNTIME_BASE} AS base

FROM ${BUILDER_BASE} AS venv
COPY docker/apt-install.sh docker/make-venv.sh docker/pip-install.sh /build/
RUN --mount=type=secret,id=ca \
    sh /build/make-venv.sh

# Compilers, for a platform that a locked package has no wheel for.
FROM venv AS toolchain
RUN --mount=type=secret,id=ca \
    sh /build/apt-install.sh build-essential

# --- The torch stack: large and rarely changed, so it has its own folder and its own layer ---------------------------

FROM toolchain AS wheel
ARG FLAVOR=cpu
# Only the CPU wheels need it: the vendor publishes them on an index of its own.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PIP_NO_INDEX
COPY requirements/${FLAVOR}.lock /build/torch.lock
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=wheelhouse,target=/wheelhouse \
    --mount=type=secret,id=ca --mount=type=secret,id=pipconf \
    if [ "${FLAVOR}" = cpu ]; then set -- --extra-index-url "${TORCH_INDEX_URL}"; fi \
    && sh /build/pip-install.sh "$@" --target /opt/torch -r /build/torch.lock

FROM venv AS distribution
RUN --mount=type=secret,id=ca \
    sh /build/apt-install.sh python3-torch python3-torchvision libopenblas0-openmp gcc libc6-dev
COPY docker/collect_torch.py docker/stand_in.py /build/
RUN --mount=type=bind,from=base,target=/runtime \
    python3 /build/collect_torch.py /runtime /opt/torch

FROM ${TORCH_SOURCE} AS unpruned

FROM unpruned AS torch
# slim: small libraries take the places of those in stand-ins.txt; whole: the real ones stay, 1.2 GB more.
ARG CUDA_LIBRARIES=slim
COPY docker/prune.py docker/prune.txt docker/stand_in.py docker/stand-ins.txt /build/
# Compiled files that are never checked against their source: a read-only container could not renew them anyway.
RUN --mount=type=bind,from=unpruned,source=/opt/torch,target=/build/whole \
    /opt/venv/bin/python /build/prune.py /build/prune.txt /opt \
    && case "${CUDA_LIBRARIES}" in \
        slim) /opt/venv/bin/python /build/stand_in.py /build/stand-ins.txt /opt/torch /build/whole ;; \
        whole) ;; \
        *) echo "error: CUDA_LIBRARIES is '${CUDA_LIBRARIES}'; choose slim or whole" >&2 && exit 1 ;; \
    esac \
    && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/torch

# --- Everything else -------------------------------------------------------------------------------------------------

FROM toolchain AS builder
ARG FLAVOR=cpu
ARG PIP_NO_INDEX
COPY requirements/common.lock requirements/openvino.lock /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=wheelhouse,target=/wheelhouse \
    --mount=type=secret,id=ca --mount=type=secret,id=pipconf \
    if [ "${FLAVOR}" = cpu ]; then set -- -r /build/openvino.lock; fi \
    && sh /build/pip-install.sh -r /build/common.lock "$@"
COPY docker/prune.py docker/prune.txt /build/
# uvloop is shipped with what a debugger needs, eight times its size.
RUN strip --strip-unneeded /opt/venv/lib/python3*/site-packages/uvloop/*.so \
    && /opt/venv/bin/python /build/prune.py /build/prune.txt /opt \
    && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib \
    && for site in /opt/venv/lib/python3*/site-packages; do echo /opt/torch > "$site/torch.pth"; done
COPY app /app/app
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /app/app

FROM toolchain AS test-packages
ARG PIP_NO_INDEX
COPY requirements/test.lock /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=wheelhouse,target=/wheelhouse \
    --mount=type=secret,id=ca --mount=type=secret,id=pipconf \
    sh /build/pip-install.sh --target /opt/test -r /build/test.lock

# --- HAProxy ---------------------------------------------------------------------------------------------------------

FROM base AS gateway
COPY docker/add-user.sh docker/apt-install.sh /build/
RUN --mount=type=secret,id=ca \
    sh /build/add-user.sh haproxy 990 /var/lib/haproxy \
    && sh /build/apt-install.sh haproxy \
    && rm -r /build \
    && install -d -o 990 -g 990 /run/haproxy
USER 990:990
EXPOSE 8080
# USR1: stop accepting, finish what is in flight. USR2 to PID 1 (the master) reloads the configuration.
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/etc/haproxy/conf/haproxy.cfg"]
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="timm-classifier-gateway" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="GPL-2.0-or-later"

# --- The service -----------------------------------------------------------------------------------------------------

FROM base AS service
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    # The memory of a picture is kept for the next one: getting it anew, page by page, can take as long as decoding.
    MALLOC_MMAP_THRESHOLD_=33554432 \
    MALLOC_TRIM_THRESHOLD_=16777216 \
    XDG_CACHE_HOME=/app/.cache \
    TORCH_HOME=/app/.cache/torch \
    HF_HOME=/app/.cache/huggingface \
    HF_HUB_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=void \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY docker/add-user.sh /build/
RUN sh /build/add-user.sh appuser 1000 /app \
    && rm -r /build \
    && install -d -o 1000 -g 1000 /app /app/models /app/logs /app/.cache
COPY --from=venv /opt/python /opt/python
COPY --from=torch /opt/torch /opt/torch
COPY --from=builder /opt/venv /opt/venv
# Libraries of the distribution's torch become findable; the imports prove that pruning took nothing that is needed, and
# that stand-ins have every symbol.
RUN if [ -d /opt/torch/torch.libs ]; then echo /opt/torch/torch.libs > /etc/ld.so.conf.d/torch.conf && ldconfig; fi \
    && LD_BIND_NOW=1 python -c 'import timm, torch, torchvision; torchvision.ops.nms(torch.rand(1, 4), torch.rand(1), 0.5)'
COPY --from=builder /app/app /app/app
WORKDIR /app
USER 1000:1000
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "app.healthcheck"]
CMD ["python", "-m", "app"]

FROM service AS test
ENV PYTHONPATH=/app:/opt/test
COPY --from=test-packages /opt/test /opt/test
COPY pyproject.toml /app/
COPY tests/unit/app /app/tests/unit/app
CMD ["python", "-m", "pytest", "-p", "no:cacheprovider", "tests/unit/app"]

FROM service AS runtime
# Last, so that a new version or commit rebuilds nothing.
ARG FLAVOR=cpu
ARG TORCH=unknown
ARG TORCH_SOURCE=wheel
ARG VERSION=0.0.0
ARG REVISION=unknown
ARG SOURCE_DIGEST=unknown
LABEL org.opencontainers.image.title="timm-classifier" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      inference-image.source-digest="${SOURCE_DIGEST}" \
      inference-image.flavor="${FLAVOR}" \
      inference-image.torch="${TORCH}"
