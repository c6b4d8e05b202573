# The image of Keyward's server.
#
# Stages: `compile` makes JavaScript of the sources; `modules` installs what the server needs at run
# time and builds the PKCS#11 binding; `tree` lays out, by scripts/image-tree.js, what the image
# runs: the server, and the command `keyward`; `server`, the default, has that and nothing else, and
# you add your HSM's PKCS#11 module to it; `softhsm` has SoftHSM, for trying out. A test lays the same tree out by the instructions of
# this file and runs the service from it (test/image/).
#
#   docker build --tag keyward .
#   docker build --tag keyward-softhsm --target softhsm .
#
# To install from a package registry of your own: --secret id=npmrc,src=<your .npmrc>; to take
# Node's image from elsewhere: --build-arg NODE_IMAGE=<its name>.
ARG NODE_IMAGE=node:24-bookworm-slim

FROM ${NODE_IMAGE} AS compile
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
COPY client/package.json client/
COPY cli/package.json cli/
# Nothing that is built natively is needed to compile.
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc --mount=type=cache,target=/root/.npm \
    npm ci --ignore-scripts
COPY tsconfig.json tsconfig.build.json tsconfig.build-client.json ./
COPY LICENSE buf.yaml ./
COPY scripts scripts
COPY proto proto
COPY src src
COPY client client
COPY cli cli
RUN npm run build

FROM ${NODE_IMAGE} AS modules
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
COPY client/package.json client/
COPY cli/package.json cli/
# The base image brings Node's headers, so node-gyp need not fetch them.
ENV npm_config_nodedir=/usr/local
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc --mount=type=cache,target=/root/.npm \
    npm ci --omit=dev --omit=optional

FROM modules AS tree
COPY LICENSE ./
COPY proto proto
COPY migrations migrations
COPY scripts/image-tree.js scripts/
COPY --from=compile /build/dist dist
COPY --from=compile /build/cli/dist cli/dist
RUN node scripts/image-tree.js /out

FROM ${NODE_IMAGE} AS base
# npm and its like are not needed any more, and what isn't there can't be used.
RUN rm -rf /usr/local/lib/node_modules /usr/local/include /opt/yarn-* \
           /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /usr/local/bin/yarn /usr/local/bin/yarnpkg \
    && groupadd --gid 10001 keyward \
    && useradd --uid 10001 --gid keyward --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin keyward \
    && groupadd --gid 10002 keyward-agents \
    && useradd --uid 10002 --gid keyward-agents --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin keyward-agents \
    && install --directory --owner keyward-agents --group keyward-agents --mode 0750 /run/keyward-agents \
    && ln -s /opt/keyward/dist/main.js /usr/local/bin/keyward-server \
    && ln -s /opt/keyward/cli/dist/keyward.cjs /usr/local/bin/keyward
COPY --from=tree /out /opt/keyward
# No debugger by SIGUSR1. Little memory for garbage (docs/sizing.md). Health, in plaintext, inside the container only unless you say otherwise.
ENV NODE_ENV=production \
    NODE_OPTIONS="--disable-sigusr1 --max-semi-space-size=8" \
    MALLOC_ARENA_MAX=2 \
    KEYWARD_LISTEN=0.0.0.0:7443 \
    KEYWARD_HEALTH_LISTEN=127.0.0.1:7444
WORKDIR /opt/keyward
EXPOSE 7443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["keyward-server", "health"]
ENTRYPOINT ["keyward-server"]
CMD ["serve"]

FROM base AS softhsm
# The library alone: the package's tools are not needed.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libsofthsm2 \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner keyward-agents --group keyward-agents --mode 0700 /var/lib/keyward /var/lib/keyward/tokens
COPY --chmod=0644 softhsm/container.conf /etc/keyward/softhsm2.conf
COPY --chmod=0644 softhsm/container-token.js softhsm/
ENV KEYWARD_HSM_MODULE=/usr/lib/softhsm/libsofthsm2.so \
    KEYWARD_HSM_TOKEN=keyward \
    KEYWARD_HSM_ENVIRONMENT=SOFTHSM2_CONF \
    SOFTHSM2_CONF=/etc/keyward/softhsm2.conf
VOLUME /var/lib/keyward
USER 10001:10001

FROM base AS server
USER 10001:10001
