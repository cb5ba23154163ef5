"""Where the time of a guided step goes: python benchmarks/profile_step.py bfloat16 [--compile]"""

import sys

from torch.profiler import profile

from counterpoint.bench import measure
from counterpoint.bench.ways import engine_way

model = measure.gpt2_124m(sys.argv[1], compile="--compile" in sys.argv)
way = engine_way(model, [measure.random_task(model)], guided=True)
way()
with profile() as profiled:
    way()
print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=60))
