# Replaces docker.io/prom/prometheus: its user, its folder, its volume, how it starts.
FROM substitute:base
RUN install -d -o 65534 -g 65534 /prometheus
USER nobody
WORKDIR /prometheus
VOLUME /prometheus
ENTRYPOINT ["/bin/prometheus"]
