# A static binary in an image with nothing else.
#
#   docker build -t pointsman .
#   docker run -p 8443:8443 -v ./pointsman:/etc/pointsman:ro pointsman    # ./pointsman has config.toml
#
# Mount the directory: an editor or a tool that replaces config.toml by a rename leaves a mounted single file as it was.
# After an edit: docker kill -s HUP CONTAINER.
#
# Bind ports from 1024 on in config.toml: the user in the image has no capabilities. The health check asks the admin
# socket that the command below opens, so config.toml needs no [admin] table; for metrics it has one with
# listen = "0.0.0.0:10190" and open_metrics = true.

# Another image with cargo and a C linker can take its place: --build-arg BUILDER=...
ARG BUILDER=docker.io/library/rust:1.95-slim
FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
# --version names the commit that is checked out: .dockerignore lets these files of the repository through. In place of
# it, or where there is no repository: --build-arg COMMIT="$(git rev-parse HEAD)".
ARG COMMIT=
ENV POINTSMAN_COMMIT=${COMMIT}
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN cargo build --profile dist --locked --bin pointsman --target "$(uname -m)-unknown-linux-gnu" \
    && cp "target/$(uname -m)-unknown-linux-gnu/dist/pointsman" /pointsman \
    && mkdir -p /socket

FROM scratch
COPY --from=build /pointsman /pointsman
COPY --from=build --chown=65532:65532 /socket /run/pointsman
USER 65532:65532
# The socket of the hand-over to a new program is there.
ENV RUNTIME_DIRECTORY=/run/pointsman
EXPOSE 8443 10190
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s CMD ["/pointsman", "health"]
ENTRYPOINT ["/pointsman"]
CMD ["run", "--admin", "unix:/run/pointsman/admin.sock", "/etc/pointsman/config.toml"]
