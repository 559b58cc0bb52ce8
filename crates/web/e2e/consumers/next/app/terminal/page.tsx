import { View } from "./view";

export default async function Page({ searchParams }: { searchParams: Promise<{ sessionId: string; token: string }> }) {
  const { sessionId, token } = await searchParams;
  return <View url={process.env.NEXT_PUBLIC_WS_URL ?? ""} sessionId={sessionId} token={token} />;
}
