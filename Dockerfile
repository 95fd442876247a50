# One image for every service: `docker run IMAGE run sender`. See docs/deploy.md.
#
# BASE is a Debian with Python 3.11 as `python3` and its venv module. To pin it, name a digest:
#   --build-arg BASE=docker.io/library/python:3.11-slim-bookworm@sha256:...
ARG BASE=docker.io/library/python:3.11-slim-bookworm
# COMPILED=1 needs a base with a C compiler for the build alone: see docs/compiled.md.
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
ARG COMPILED=0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1
RUN python3 -m venv /opt/vashsender
WORKDIR /source
# Dependencies first, so that this layer is reused while the lock file is unchanged. For your own package index, use a
# secret, which leaves no trace: --secret id=pip,src=pip.conf
COPY requirements/run.txt requirements/compile.txt requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/vashsender/bin/pip install --quiet --require-hashes -r requirements/run.txt
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    [ "$COMPILED" = 0 ] || /opt/vashsender/bin/pip install --quiet --require-hashes -r requirements/compile.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY shared shared
COPY services services
COPY cli cli
COPY deploy/image deploy/image
RUN VASHSENDER_COMPILE=$COMPILED /opt/vashsender/bin/pip install --quiet --no-deps --no-build-isolation --no-index . \
    && /opt/vashsender/bin/pip uninstall --quiet --yes mypy mypy-extensions ast-serialize librt pathspec setuptools pip \
    && python3 deploy/image/compile.py /opt/vashsender

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="VashSender" \
      org.opencontainers.image.description="Sends email campaigns: every person once, on time" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Removes everything that could install software. The user has no shell, and writes only to /var/lib/vashsender.
RUN --mount=type=bind,source=deploy/image,target=/mnt/image python3 /mnt/image/prepare.py
COPY --from=build /opt/vashsender /opt/vashsender
# Every service listens on the same port, as each container has its own network.
ENV PATH=/opt/vashsender/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VASHSENDER_HTTP_HOST=0.0.0.0 \
    VASHSENDER_HTTP_PORT=8700 \
    VASHSENDER_VAR_DIR=/var/lib/vashsender
USER 10001:10001
# Readable by any user of a container, writable by none.
WORKDIR /opt/vashsender
EXPOSE 8700
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 CMD ["python3", "-P", "-m", "cli.probe"]
ENTRYPOINT ["vashsender"]
CMD ["run", "api"]
