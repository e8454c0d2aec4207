# A static binary in an image with nothing else.
#
#   docker build -t pointsman .
#   docker run -p 8443:8443 -p 127.0.0.1:9100:9100 -v ./config.toml:/etc/pointsman/config.toml:ro pointsman
#
# Bind ports from 1024 on in config.toml: the user in the image has no capabilities. To scrape and to
# health-check, [admin] must listen on 0.0.0.0:9100 inside the container (published to loopback above).

FROM rust:1.95-slim AS build
WORKDIR /src
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN cargo build --release --locked --bin pointsman --target "$(uname -m)-unknown-linux-gnu" \
    && cp "target/$(uname -m)-unknown-linux-gnu/release/pointsman" /pointsman

FROM scratch
COPY --from=build /pointsman /pointsman
USER 65532:65532
EXPOSE 8443 9100
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s CMD ["/pointsman", "health"]
ENTRYPOINT ["/pointsman"]
CMD ["run", "/etc/pointsman/config.toml"]
