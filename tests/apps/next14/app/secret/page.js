export default function Secret() {
  return <h1>for the invited only</h1>;
}
