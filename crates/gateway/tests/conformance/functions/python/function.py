"""Remembers who connects, and answers each message with it. Names neither region, endpoint nor credentials."""

import json

import boto3

table = boto3.resource("dynamodb").Table("WebSocketConnections")
management = boto3.client("apigatewaymanagementapi")


def handler(event, context):
    connection = event["requestContext"]["connectionId"]
    key = {"connectionId": connection}
    match event["requestContext"]["eventType"]:
        case "CONNECT":
            name = event.get("queryStringParameters", {}).get("name")
            if name is None:
                return {"statusCode": 403}
            table.put_item(Item={**key, "sessionId": "one", "name": name})
        case "MESSAGE":
            item = table.get_item(Key=key)["Item"]
            answer = {"name": item["name"], "said": event["body"], "function": context.function_name}
            management.post_to_connection(ConnectionId=connection, Data=json.dumps(answer).encode())
        case "DISCONNECT":
            table.delete_item(Key=key)
    return {"statusCode": 200}
