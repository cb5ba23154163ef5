"""`preset` over HTTP: the same text as with the fields that it stands for, on both endpoints."""

import httpx


def test_a_preset_is_the_fields_that_it_stands_for(server):
    body = {"prompt": "Once upon", "negative_prompt": "In the end", "max_tokens": 8, "temperature": 0}
    url = f"{server.base}/v1/completions"
    by_name = httpx.post(url, json=body | {"preset": "steady"}).json()
    by_fields = httpx.post(url, json=body | {"guidance": {"scale": 3.0, "space": "prob"}}).json()
    assert by_name["choices"] == by_fields["choices"]
    other = httpx.post(url, json=body | {"preset": "steady", "guidance_scale": 1.5}).json()
    want = httpx.post(url, json=body | {"guidance_scale": 1.5, "guidance": {"space": "prob"}}).json()
    assert other["choices"] == want["choices"]


def test_a_preset_that_is_none_is_told_by_name(server):
    answer = httpx.post(f"{server.base}/v1/completions", json={"prompt": "x", "preset": "stedy"})
    assert answer.status_code == 400 and "did you mean steady?" in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "preset"
