"""`preset` over HTTP: the same text as with the fields that it stands for, on both endpoints."""

from patience import http


def test_a_preset_is_the_fields_that_it_stands_for(server):
    body = {"prompt": "Once upon", "negative_prompt": "In the end", "max_tokens": 8, "temperature": 0}
    url = f"{server.base}/v1/completions"
    by_name = http.post(url, json=body | {"preset": "steady"}).json()
    by_fields = http.post(url, json=body | {"guidance": {"scale": 3.0, "space": "prob"}}).json()
    assert by_name["choices"] == by_fields["choices"]
    other = http.post(url, json=body | {"preset": "steady", "guidance_scale": 1.5}).json()
    want = http.post(url, json=body | {"guidance_scale": 1.5, "guidance": {"space": "prob"}}).json()
    assert other["choices"] == want["choices"]


def test_a_preset_that_is_none_is_told_by_name(server):
    answer = http.post(f"{server.base}/v1/completions", json={"prompt": "x", "preset": "stedy"})
    assert answer.status_code == 400 and "did you mean steady?" in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "preset"


CHAT = """
[blunt]
guide = {scale = 2.0, space = "prob"}
contexts = {system = "Be kind.", negative_system = "Be rude."}
sampling = {max_tokens = 7, temperature = 0}
"""


def test_a_preset_for_chats_is_one_for_responses_too(server, tmp_path, monkeypatch):
    path = tmp_path / "presets.toml"
    path.write_text(CHAT)
    monkeypatch.setenv("COUNTERPOINT_PRESETS", str(path))
    user = {"role": "user", "content": "Who are you?"}

    def said(given, **fields):
        answer = http.post(f"{server.base}/v1/responses", json={"input": given, **fields}).json()
        return answer["output"][0]["content"][0]["text"], answer["usage"]["output_tokens"]

    fields = {"guidance": {"scale": 2.0, "space": "prob"}, "negative_prompt": "Be rude.", "temperature": 0}
    want = said("Who are you?", instructions="Be kind.", max_output_tokens=7, **fields)
    assert said("Who are you?", preset="blunt") == said([user], preset="blunt") == want
    chat = http.post(f"{server.base}/v1/chat/completions", json={"messages": [user], "preset": "blunt"}).json()
    assert chat["choices"][0]["message"]["content"] == want[0]
    own = said("Who are you?", instructions="Be brief.", preset="blunt", max_output_tokens=3)
    assert own == said("Who are you?", instructions="Be brief.", max_output_tokens=3, **fields) != want
    system = [{"role": "system", "content": "Be brief."}, user]
    assert said(system, preset="blunt", max_output_tokens=3) == own
