# The image: one static binary, nothing else, built from source. Works with BuildKit and with the
# classic builder, and pulls the rust image. Where cargo has built the binary already, see
# Dockerfile.prebuilt, which makes the same image and pulls nothing.
#
#   docker build -t switchyard .

FROM rust:1.95-bookworm AS source
WORKDIR /source
ENV RUSTFLAGS="-C target-feature=+crt-static"
# Dependencies first, with empty crates in place of ours: this layer stays until they change.
COPY Cargo.toml Cargo.lock ./
COPY apiserver/Cargo.toml apiserver/
COPY balance/Cargo.toml balance/
COPY daemon/Cargo.toml daemon/
COPY dns/Cargo.toml dns/
COPY feed/Cargo.toml feed/
COPY ingress/Cargo.toml ingress/
COPY model/Cargo.toml model/
COPY proxy/Cargo.toml proxy/
# With --target, the flags are for the binary alone and not for what builds it.
RUN mkdir -p src tests/e2e \
 && for package in apiserver balance daemon dns feed ingress model proxy; do \
      mkdir "$package/src" && touch "$package/src/lib.rs"; done \
 && echo 'fn main() {}' | tee src/main.rs tests/fuzz.rs tests/tidy.rs > tests/e2e/main.rs \
 && rustc -vV | sed -n 's/^host: //p' > /target \
 && cargo build --profile dist --locked --target "$(cat /target)"
COPY . .
# What `--version` says: docker build --build-arg COMMIT="$(git rev-parse --short=12 HEAD)".
ARG COMMIT
ENV SWITCHYARD_COMMIT=${COMMIT}
# Files are as old as they were; cargo would take the empty crates for newer.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
 && cargo build --profile dist --locked --target "$(cat /target)" \
 && cp "target/$(cat /target)/dist/switchyard" /switchyard

FROM scratch
LABEL org.opencontainers.image.title="Switchyard" \
      org.opencontainers.image.description="Kubernetes Services, Ingress and cluster DNS for containers anywhere" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, because there is no /etc/passwd. The one process that needs more is the proxy with
# --service-cidr: see configs/compose/compose.yaml.
USER 65532:65532
# For documentation: the feed; HTTP, HTTPS and DNS as the processes listen by default.
EXPOSE 7400/tcp 8080/tcp 8443/tcp 1053/tcp 1053/udp
ENTRYPOINT ["/switchyard"]
COPY --from=source /switchyard /switchyard
