"""A simulator that walks every step one at a time: the oracle of the one that leaps."""

import math


def walk(table, schedule, arrival, prompt, output):
    """First-token and finish times of one worker without a cache limit, mixed or prefill-first."""
    waiting, decoding = list(range(len(prompt))), {}
    prefilling = []
    done = [0] * len(prompt)
    first, finish = [math.nan] * len(prompt), [math.nan] * len(prompt)
    now = 0.0
    while waiting or prefilling or decoding:
        while waiting and arrival[waiting[0]] <= now and len(decoding) + len(prefilling) < schedule.max_sequences:
            prefilling.append(waiting.pop(0))
        if not prefilling and not decoding:
            now = arrival[waiting[0]]
            continue
        mixed = schedule.policy == "mixed" or not prefilling
        running = len(decoding) if mixed else 0
        budget = schedule.token_budget - (running if schedule.policy == "mixed" else 0)
        batch = []
        for request in prefilling:
            left = prompt[request] - done[request]
            if schedule.whole_prompts and batch and left > budget:
                break
            chunk = left if schedule.whole_prompts else min(left, budget)
            if chunk <= 0:
                break
            batch.append((request, chunk))
            budget -= chunk
            if budget <= 0:
                break
        if batch:
            seconds = table.loaded(running, sum(chunk for _, chunk in batch), len(batch))
            pairs = sum(table.pairs_seconds(done[request], chunk) for request, chunk in batch)
            seconds += pairs * math.ceil(len(batch) / table.cost.groups) / len(batch)
        else:
            seconds = table.plain(running)
        if running:
            contexts = (prompt[request] + 1 + made for request, made in decoding.items())
            seconds += table.read_s * sum(contexts)
        now += seconds
        if running:
            for request in list(decoding):
                decoding[request] += 1
                if decoding[request] >= output[request] - 1:
                    del decoding[request]
                    finish[request] = now
        for request, chunk in batch:
            done[request] += chunk
            if done[request] == prompt[request]:
                first[request] = now
                prefilling.remove(request)
                if output[request] > 1:
                    decoding[request] = 0
                else:
                    finish[request] = now
    return first, finish
