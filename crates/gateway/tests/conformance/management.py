"""Calls @connections with boto3: arguments are the endpoint, an open connection and an unknown one."""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, connection, unknown = sys.argv[1:]
client = boto3.client(
    "apigatewaymanagementapi",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id="local",
    aws_secret_access_key="local",
    config=Config(retries={"max_attempts": 0}),
)


def status(error):
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


client.post_to_connection(ConnectionId=connection, Data="hällo".encode())
found = client.get_connection(ConnectionId=connection)
assert found["Identity"]["SourceIp"] == "127.0.0.1", found
assert found["ConnectedAt"] <= found["LastActiveAt"], found

for call in (
    lambda: client.post_to_connection(ConnectionId=unknown, Data=b"x"),
    lambda: client.get_connection(ConnectionId=unknown),
    lambda: client.delete_connection(ConnectionId=unknown),
):
    try:
        call()
        raise AssertionError("a connection that never was")
    except client.exceptions.GoneException as error:
        assert status(error) == 410, error.response

try:
    client.post_to_connection(ConnectionId=connection, Data=b"x" * 131073)
    raise AssertionError("too large a message")
except client.exceptions.PayloadTooLargeException as error:
    assert status(error) == 413, error.response

try:
    client.post_to_connection(ConnectionId="nonsense", Data=b"x")
    raise AssertionError("no id at all")
except ClientError as error:
    assert status(error) == 400, error.response
    assert error.response["Error"]["Code"] == "BadRequestException", error.response
    assert error.response["Error"]["Message"] == "Invalid connectionId: nonsense", error.response

deleted = client.delete_connection(ConnectionId=connection)
assert deleted["ResponseMetadata"]["HTTPStatusCode"] == 204, deleted
