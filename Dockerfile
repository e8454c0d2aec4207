# A static binary in an image with nothing else.
#
#   docker build -t pointsman .
#   docker run -p 8443:8443 -p 127.0.0.1:10190:10190 -v ./config.toml:/etc/pointsman/config.toml:ro pointsman
#
# Bind ports from 1024 on in config.toml: the user in the image has no capabilities. The health check asks
# 127.0.0.1:10190 from inside the container, so config.toml needs an [admin] table whose `listen` is
# "127.0.0.1:10190", or "0.0.0.0:10190" with open_metrics = true if it is also to be scraped from outside
# (published to loopback above); without one the container serves but counts as unhealthy.

# Another image with cargo and a C linker can take its place: --build-arg BUILDER=...
ARG BUILDER=docker.io/library/rust:1.95-slim
FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN cargo build --release --locked --bin pointsman --target "$(uname -m)-unknown-linux-gnu" \
    && cp "target/$(uname -m)-unknown-linux-gnu/release/pointsman" /pointsman

FROM scratch
COPY --from=build /pointsman /pointsman
USER 65532:65532
EXPOSE 8443 10190
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s CMD ["/pointsman", "health"]
ENTRYPOINT ["/pointsman"]
CMD ["run", "/etc/pointsman/config.toml"]
