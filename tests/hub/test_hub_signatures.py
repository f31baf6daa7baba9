"""Signatures travel with push and pull, and with what an endpoint takes in."""

import pytest
from hub_client_helpers import ADDRESS, send
from registry.signing_helpers import changed, key_pair

from adapterhub.errors import SignatureError, TransferError
from adapterhub.hub.client.address import HubAddress
from adapterhub.hub.client.pulling import pull
from adapterhub.hub.client.pushing import plan_push
from adapterhub.registry.policy import trusted_folder
from adapterhub.registry.sigstore import sign, signature_name


@pytest.fixture
def keys(tmp_path):
    return key_pair(tmp_path, "team")


def signed(registry, ref, keys):
    version = registry.resolve(ref)
    content = sign(registry.materialize(version), keys.private)
    registry.add_signature(ref, content)
    return content


def test_a_signature_travels(hub_endpoint, here, there, put, keys):
    put()
    content = signed(here, "fruit", keys)
    send(here, "fruit", hub_endpoint.api)
    there.trust("team", keys.pem)
    there.set_requires_signed(True)
    pulled = pull(there, ADDRESS, api=hub_endpoint.api)
    assert pulled.signatures == (keys.key,)
    assert there.signatures(pulled.version)[0].content == content
    assert trusted_folder(there, pulled.version).is_dir()
    # the endpoint's own registry has it too
    registry = hub_endpoint.registry()
    assert registry.signatures(registry.resolve("team/fruit"))[0].content == content


def test_without_one_a_pulled_adapter_is_not_loaded(hub_endpoint, here, there, put, keys):
    put()
    send(here, "fruit", hub_endpoint.api)
    there.trust("team", keys.pem)
    there.set_requires_signed(True)
    pulled = pull(there, ADDRESS, api=hub_endpoint.api)
    with pytest.raises(SignatureError, match="not signed"):
        trusted_folder(there, pulled.version)


def test_a_signature_that_comes_later_is_sent_alone_and_pulled_alone(
    hub_endpoint, here, there, put, keys
):
    put()
    first = send(here, "fruit", hub_endpoint.api)
    pull(there, ADDRESS, api=hub_endpoint.api)
    signed(here, "fruit", keys)
    plan = plan_push(here, "fruit", ADDRESS, api=hub_endpoint.api)
    assert [name for name, _ in plan.send] == [signature_name(keys.key)]
    second = send(here, "fruit", hub_endpoint.api)
    assert first != second
    assert hub_endpoint.api.model_info("team/fruit", revision="v1").sha == second
    pulled = pull(there, HubAddress("team/fruit", "v1"), api=hub_endpoint.api)
    assert (pulled.new, pulled.signatures) == (False, (keys.key,))
    assert len(hub_endpoint.registry().versions("team/fruit")) == 1


def test_a_signature_for_a_version_below_the_head_is_refused(hub_endpoint, here, put, keys):
    put()
    send(here, "fruit@1", hub_endpoint.api)
    put("second")
    send(here, "fruit@2", hub_endpoint.api)
    signed(here, "fruit@1", keys)
    with pytest.raises(TransferError, match=r"hf://team/fruit@v1.*Sign before pushing"):
        plan_push(here, "fruit@1", ADDRESS, api=hub_endpoint.api)


def test_the_signature_of_an_earlier_version_does_not_stay(
    hub_endpoint, here, there, put, keys, tmp_path
):
    put()
    signed(here, "fruit@1", keys)
    send(here, "fruit@1", hub_endpoint.api)
    put("second")
    content = signed(here, "fruit@2", keys)
    send(here, "fruit@2", hub_endpoint.api)
    assert (
        there.signatures(pull(there, ADDRESS, api=hub_endpoint.api).version)[0].content == content
    )
    put("third")
    other = key_pair(tmp_path, "other")
    signed(here, "fruit@3", other)
    plan = plan_push(here, "fruit@3", ADDRESS, api=hub_endpoint.api)
    assert plan.delete == (signature_name(keys.key),)


def test_a_wrong_signature_by_a_trusted_key_changes_nothing(hub_endpoint, here, there, put, keys):
    put()
    here.add_signature("fruit", changed(signed(here, "fruit", keys), sig=b"0" * 70))
    send(here, "fruit", hub_endpoint.api)
    there.trust("team", keys.pem)
    with pytest.raises(SignatureError):
        pull(there, ADDRESS, api=hub_endpoint.api)
    assert there.list() == ()


def test_an_endpoint_that_trusts_the_key_refuses_a_wrong_one(hub_endpoint, here, put, keys):
    hub_endpoint.registry().trust("team", keys.pem)
    put()
    here.add_signature("fruit", changed(signed(here, "fruit", keys), sig=b"0" * 70))
    with pytest.raises(TransferError, match="says 400"):
        send(here, "fruit", hub_endpoint.api)
    assert hub_endpoint.registry().versions("team/fruit") == ()


def test_other_files_of_such_a_name_are_plain_files(hub_endpoint, here, put):
    put()
    send(here, "fruit", hub_endpoint.api)
    name = signature_name("ab" * 32)
    hub_endpoint.api.upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id="team/fruit")
    assert name in hub_endpoint.api.list_repo_files("team/fruit")


def test_a_registry_that_is_served_shows_its_signatures(hub_endpoint, here, there, put, keys):
    served = hub_endpoint.registry()
    version = served.put(here.materialize(put()), "team/fruit")
    assert signature_name(keys.key) not in hub_endpoint.api.list_repo_files("team/fruit")
    # signed after clients have seen the version
    content = signed(served, version.ref, keys)
    files = hub_endpoint.api.list_repo_files("team/fruit", revision="v1")
    assert signature_name(keys.key) in files
    pulled = pull(there, HubAddress("team/fruit", "v1"), api=hub_endpoint.api)
    assert there.signatures(pulled.version)[0].content == content
    assert len(served.versions("team/fruit")) == 1
