from types import SimpleNamespace

from counterpoint.vllm.branches import Group, Groups, branch_id, owner_of


def test_ids():
    assert owner_of(branch_id("cmpl-1", 0)) == "cmpl-1"
    assert owner_of(branch_id(branch_id("a", 0), 1)) == branch_id("a", 0)
    assert owner_of("cmpl-1") is None


def test_groups_are_found_by_any_member():
    group = Group("a", tuple(SimpleNamespace(request_id=branch_id("a", k)) for k in range(2)))
    groups = Groups()
    groups.add(group)
    assert [groups.of(member) for member in group.members] == [group] * 3
    assert (len(groups), list(groups)) == (1, [group])
    groups.drop(group)
    assert (groups.of("a"), len(groups)) == (None, 0)
