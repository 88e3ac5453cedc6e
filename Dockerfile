# The worker, from the wheel: no compiler, no checkout and no root in the image that runs.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir -c /wheels/constraints.txt "$(ls /wheels/horarium-*.whl)[postgres,foundry]" \
    && rm -r /wheels \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/horarium horarium

# The project (horarium.toml, agents/, prompts/, tools/) is mounted here, or copied by an image built on this one.
WORKDIR /project
USER 10001
VOLUME /var/lib/horarium
ENTRYPOINT ["horarium"]
CMD ["worker"]
