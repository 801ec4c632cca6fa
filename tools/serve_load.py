#!/usr/bin/env python3
"""How many requests a second a server answers, and how long they take.

    helixgrad serve --model DIR &
    python tools/serve_load.py --url http://127.0.0.1:8000
    python tools/serve_load.py --model DIR --program target/release/helixgrad --cores 0,1 --torch

Requests come at the times of a Poisson process of a given rate, whatever the server does (an open loop: a server that is behind is not spared, and
waiting counts), from the same seed for every server. At each rate: requests a second that were answered, p50 and p99 of the time from when a
request was due to the end of its answer, and what was refused. Each server is warmed first, and its vectors are compared with the first one's.

With --model the servers are started here, one after the other, on --cores; the client takes part of the time of the same cores unless --client-cores names others.
--torch starts a server over PyTorch and transformers with the same shapes of requests, of Python's standard library: a thread a connection, one that computes
(padded batches of whatever waits). Nothing but the standard library is needed without it. Figures are worth something only where nothing else runs.
"""

import argparse
import http.client
import http.server
import json
import os
import queue
import random
import shlex
import socket
import subprocess
import sys
import threading
import time
import urllib.parse


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--model", help="a model's folder: servers are started here")
    parser.add_argument("--program", default="helixgrad")
    parser.add_argument("--torch", action="store_true", help="a server over PyTorch and transformers, too")
    parser.add_argument("--cores", help="the servers' cores, as taskset has them: 0,1")
    parser.add_argument("--client-cores")
    parser.add_argument("--rates", default="10,50,100,200,400", help="requests a second")
    parser.add_argument("--seconds", type=float, default=10, help="for each rate")
    parser.add_argument("--sequences", type=int, default=1, help="of a request")
    parser.add_argument("--lengths", default="50-512", help="bases, drawn evenly")
    parser.add_argument("--clients", type=int, default=64, help="connections")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--be-torch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_torch:
        return be_torch(options.be_torch)
    if not (options.url or options.model):
        parser.error("give --url, or --model")
    if options.client_cores:
        os.sched_setaffinity(0, [int(core) for core in options.client_cores.split(",")])
    if options.url:
        return measure("the server", options.url, options, None)
    ours = [options.program, "serve", "--model", options.model, "--listen", "127.0.0.1:0", "--json", "--quiet", "--queue", "100000"]
    servers = [("helixgrad", ours)]
    if options.torch:
        servers.append(("PyTorch", [sys.executable, __file__, "--be-torch", options.model]))
    vectors = None
    for name, command in servers:
        if options.cores:
            command = ["taskset", "-c", options.cores, *command]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            line = process.stdout.readline()
            if not line:
                sys.exit(f"{shlex.join(command)} ended with {process.wait()}")
            vectors = measure(name, json.loads(line)["listening"], options, vectors)
        finally:
            process.terminate()
            process.wait()


def requests_of(options, rate):
    """When each request is due, and its body: the same for every server."""
    drawn = random.Random(f"{options.seed} {rate}")
    low, high = (int(end) for end in options.lengths.split("-"))
    due, plan = 0.0, []
    while due < options.seconds:
        sequences = ["".join(drawn.choices("ACGT", k=drawn.randint(low, high))) for _ in range(options.sequences)]
        plan.append((due, json.dumps({"sequences": sequences})))
        due += drawn.expovariate(rate)
    return plan


def measure(name, url, options, expected):
    address = urllib.parse.urlsplit(url)
    connect = lambda: http.client.HTTPConnection(address.hostname, address.port, timeout=300)
    vectors = []
    for _, body in requests_of(options, 20)[:20]:
        status, answer = post(connect(), body)
        if status != 200:
            sys.exit(f"{name}: {status} {answer}")
        vectors += [row["embedding"] for row in json.loads(answer)["embeddings"]]
    print(f"\n{name} at {url}: {options.sequences} sequence(s) of {options.lengths} bases a request")
    if expected:
        furthest = max(abs(a - b) for row, other in zip(vectors, expected) for a, b in zip(row, other))
        print(f"its vectors are at most {furthest:.1e} from the first server's")
    print("  due/s  answered/s  p50 ms  p99 ms  refused  late clients")
    for rate in (float(rate) for rate in options.rates.split(",")):
        plan = requests_of(options, rate)
        todo, times, refused, late = queue.SimpleQueue(), [], [], []
        for each in plan:
            todo.put(each)
        began = time.perf_counter() + 0.2
        threads = [threading.Thread(target=client, args=(connect, todo, began, times, refused, late)) for _ in range(options.clients)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        took, times = time.perf_counter() - began, sorted(times)
        at = lambda share: f"{1000 * times[min(len(times) - 1, int(share * len(times)))]:.1f}" if times else "-"
        print(f"{rate:7.0f} {len(times) / took:11.1f} {at(0.5):>7} {at(0.99):>7} {len(refused):8} {len(late):13}", flush=True)
    return vectors


def client(connect, todo, began, times, refused, late):
    connection = connect()
    while True:
        try:
            due, body = todo.get_nowait()
        except queue.Empty:
            return
        wait = began + due - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        elif wait < -0.1:
            # All connections are busy: part of the time is the client's own queue.
            late.append(due)
        try:
            status, _ = post(connection, body)
        except (OSError, http.client.HTTPException):
            connection = connect()
            refused.append(due)
            continue
        if status == 200:
            times.append(time.perf_counter() - began - due)
        else:
            refused.append(due)


def post(connection, body):
    connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def be_torch(folder):
    """The same vectors from PyTorch and transformers: the mean of the last layer over k-mers."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    words = {word.strip(): index for index, word in enumerate(open(os.path.join(folder, "vocab.txt")))}
    k = len(list(words)[-1])
    waiting = queue.SimpleQueue()

    def tokens(bases):
        return [words["[CLS]"]] + [words.get(bases[at : at + k], words["[UNK]"]) for at in range(len(bases) - k + 1)] + [words["[SEP]"]]

    def compute():
        while True:
            jobs = [waiting.get()]
            while not waiting.empty() and sum(len(job[0]) for job in jobs) < 16:
                jobs.append(waiting.get())
            rows = [tokens(bases) for sequences, _ in jobs for bases in sequences]
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
            with torch.inference_mode():
                hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            means = iter([state[1 : len(row) - 1].mean(0).tolist() for state, row in zip(hidden, rows)])
            for sequences, reply in jobs:
                reply.put([next(means) for _ in sequences])

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = queue.SimpleQueue()
            waiting.put((asked["sequences"], reply))
            answer = json.dumps({"embeddings": [{"embedding": vector} for vector in reply.get()]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 1024

        def server_bind(self):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().server_bind()

    threading.Thread(target=compute, daemon=True).start()
    server = Server(("127.0.0.1", 0), Handler)
    print(json.dumps({"listening": "http://127.0.0.1:%d" % server.server_address[1]}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
