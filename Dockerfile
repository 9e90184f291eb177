# syntax=docker/dockerfile:1
# The gateway in an image without a shell, run by a user without rights, with a root file system
# that may be read-only. The configuration is mounted at /etc/edgeway; see docs/containers.md.
#   docker build -t edgeway .

FROM docker.io/library/rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake=3.25.* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The commit for `edgeway --version`: the build's context has no .git.
ARG EDGEWAY_COMMIT=""
ARG SOURCE_DATE_EPOCH=""
RUN scripts/build-dist \
    && scripts/image-root target/dist/edgeway /

# glibc, libgcc and CA certificates, and nothing else.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/ /
# Folders that the gateway writes to belong to its user: volumes inherit that.
COPY --from=build --chown=65532:65532 --chmod=750 /empty/ /run/edgeway/
COPY --from=build --chown=65532:65532 --chmod=750 /empty/ /var/lib/edgeway/
COPY --from=build --chown=65532:65532 --chmod=750 /empty/ /var/cache/edgeway/
COPY --from=build --chown=65532:65532 --chmod=750 /empty/ /var/log/edgeway/
# The same places that systemd's unit has. The admin socket is in a folder that the gateway makes for
# itself: a tmpfs may belong to anybody.
ENV EDGEWAY_CONFIG=/etc/edgeway/edgeway.yaml \
    STATE_DIRECTORY=/var/lib/edgeway \
    RUNTIME_DIRECTORY=/run/edgeway/private \
    EDGEWAY_CALLED_AS="docker exec CONTAINER edgeway"
WORKDIR /etc/edgeway
USER 65532:65532
EXPOSE 8080 8443 9900
# Finishes the requests in flight; give it more time than `drain: deadline` (30 s).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["/usr/bin/edgeway", "status", "--ready"]
ENTRYPOINT ["/usr/bin/edgeway"]
CMD ["run"]
