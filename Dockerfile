# docker build -t pexservice .
# docker run -d --name pex -p 8081:8081 -v pex:/data pexservice
#
# docs/operations.md has the rest.

# Debian's slim image of Python, or any Debian with or without its own python3.
ARG BASE=docker.io/library/python:3.13-slim-trixie

FROM ${BASE} AS base
RUN command -v python3 \
    || { apt-get update \
        && apt-get install --yes --no-install-recommends python3 \
        && rm -rf /var/lib/apt/lists/*; }

FROM base AS build
# Debian has venv in a package of its own.
RUN python3 -c 'import ensurepip' \
    || { apt-get update \
        && apt-get install --yes --no-install-recommends python3-venv; }
# pip stays here, for nobody installs anything in the result.
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/pexservice
WORKDIR /source
COPY . .
RUN /pip/bin/pip wheel --wheel-dir /wheels --no-deps .
# What has no wheel for this platform is compiled, and only then takes a compiler.
# tls is what --store etcd: takes for https; nobody else loads it.
RUN set -- --python /opt/pexservice/bin/python install --no-cache-dir /wheels/*.whl \
        'twisted[tls]>=24.11'; \
    /pip/bin/pip "$@" --only-binary :all: \
    || { apt-get update \
        && apt-get install --yes --no-install-recommends gcc libc6-dev make patch python3-dev \
        && /pip/bin/pip "$@"; }
# Nobody can write twisted's plugin cache in the result.
RUN /opt/pexservice/bin/twistd --help > /dev/null

FROM base
LABEL org.opencontainers.image.title="pexservice" \
    org.opencontainers.image.description="A durable cursor over the Fibonacci sequence, over HTTP" \
    org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/pexservice /opt/pexservice
ENV PATH=/opt/pexservice/bin:$PATH
# A new volume takes over whose it is.
RUN install --directory --owner 10001 --group 10001 --mode 0700 /data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8081
# The supervisor is process 1: it buries orphans, and SIGTERM, the default, ends it well.
# The kernel drops what process 1 has no handler for, so what comes before Python has one
# is held back until then.
ENTRYPOINT ["env", "--block-signal=TERM", "python", "-m", "pexservice", "--nodaemon", "--pidfile=", \
    "pexservice", "--listen", "tcp:8081", "--store", "lmdb:/data/store"]
# Docker has one notion of health, so it is whether a step would be taken, where and how
# process 1 was told to listen; a worker that hangs is the supervisor's business.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["pexctl", "status", "--process", "1", "--timeout", "4"]
