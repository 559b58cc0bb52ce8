// Remembers who connects, and answers each message with it. Names neither region, endpoint nor credentials.
// Speaks the Runtime API itself: aws-lambda-ric compiles native code when it is installed.

const { DynamoDBClient, PutItemCommand, GetItemCommand, DeleteItemCommand } = require("@aws-sdk/client-dynamodb");
const { ApiGatewayManagementApiClient, PostToConnectionCommand } = require("@aws-sdk/client-apigatewaymanagementapi");

const dynamodb = new DynamoDBClient();
const management = new ApiGatewayManagementApiClient();
const TableName = "WebSocketConnections";

async function handler(event) {
  const ConnectionId = event.requestContext.connectionId;
  const Key = { connectionId: { S: ConnectionId } };
  switch (event.requestContext.eventType) {
    case "CONNECT": {
      const name = event.queryStringParameters?.name;
      if (name === undefined) return { statusCode: 403 };
      await dynamodb.send(new PutItemCommand({ TableName, Item: { ...Key, sessionId: { S: "one" }, name: { S: name } } }));
      break;
    }
    case "MESSAGE": {
      const { Item } = await dynamodb.send(new GetItemCommand({ TableName, Key }));
      const answer = { name: Item.name.S, said: event.body, function: process.env.AWS_LAMBDA_FUNCTION_NAME };
      await management.send(new PostToConnectionCommand({ ConnectionId, Data: JSON.stringify(answer) }));
      break;
    }
    case "DISCONNECT":
      await dynamodb.send(new DeleteItemCommand({ TableName, Key }));
  }
  return { statusCode: 200 };
}

async function main() {
  const runtime = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation`;
  for (;;) {
    const next = await fetch(`${runtime}/next`);
    const id = next.headers.get("lambda-runtime-aws-request-id");
    const post = (verb, body) => fetch(`${runtime}/${id}/${verb}`, { method: "POST", body: JSON.stringify(body) });
    try {
      await post("response", await handler(await next.json()));
    } catch (error) {
      await post("error", { errorType: error.name, errorMessage: error.message });
    }
  }
}

main();
