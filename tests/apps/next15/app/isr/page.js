export const revalidate = 60;

export default function Isr() {
  return (
    <main>
      <h1>Made again every 60 s</h1>
      <p id="made">{`made:${Date.now()}`}</p>
    </main>
  );
}
