//! netperf: the command for a case, and what its output says.

use iommu_workloads::{CaseSpec, Test};
use thiserror::Error;

/// What is asked for, by netperf's names. The whole output is kept beside the run.
const KEYS: &str = "THROUGHPUT,THROUGHPUT_UNITS,ELAPSED_TIME,LOCAL_BYTES_SENT,LOCAL_BYTES_RECVD,REMOTE_BYTES_SENT,\
                    REMOTE_BYTES_RECVD,LOCAL_SEND_CALLS,LOCAL_RECV_CALLS,REMOTE_RECV_CALLS,TRANSPORT_MSS,\
                    MIN_LATENCY,MEAN_LATENCY,P50_LATENCY,P90_LATENCY,P99_LATENCY,MAX_LATENCY";
/// Bits of a netperf "10^6bits".
const MEGABIT: f64 = 1e6;

/// Output that is not a result.
#[derive(Debug, Error, PartialEq)]
pub(super) enum NetperfError {
    /// Fewer or more results than netperfs were started.
    #[error("netperf gave {found} results instead of {wanted}; it said: {said}")]
    Results {
        /// How many.
        found: usize,
        /// How many were started.
        wanted: u16,
        /// Its output.
        said: String,
    },
    /// A result lacks something, or has no number where one belongs.
    #[error("netperf's result has no number for {key}; it said: {said}")]
    Key {
        /// What is looked for.
        key: &'static str,
        /// Its output.
        said: String,
    },
    /// Nothing was moved.
    #[error("netperf moved nothing; it said: {said}")]
    Nothing {
        /// Its output.
        said: String,
    },
}

/// What netperf measured in one slice, all flows together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    /// Nanoseconds, by netperf's clock in the guest.
    pub(super) elapsed_ns: u64,
    /// Payload bytes that arrived.
    pub(super) payload_bytes: u64,
    /// Round trips.
    pub(super) transactions: u64,
}

/// The agent's command that runs netperf for whole `seconds`.
pub(super) fn command(case: &CaseSpec, seconds: u64) -> String {
    let params = &case.params;
    let bytes = params.message_bytes;
    let size = match case.test {
        Test::TcpMaerts => format!("-M {bytes}"),
        test if test.transacts() => format!("-r {bytes},{bytes}"),
        _ => format!("-m {bytes}"),
    };
    // -j keeps the latencies that its keys name.
    format!("netperfs {} -t {} -l {seconds} -j -- {size} -k {KEYS}", params.flows, case.test.name())
}

/// Reads the output of all flows.
///
/// # Errors
/// When it is not what so many netperfs print.
pub(super) fn parse(case: &CaseSpec, output: &str) -> Result<Measured, NetperfError> {
    let said = || output.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(600).collect();
    let flows: Vec<&str> = output.split("# flow ").filter(|flow| flow.contains("THROUGHPUT=")).collect();
    if flows.len() != usize::from(case.params.flows) {
        return Err(NetperfError::Results { found: flows.len(), wanted: case.params.flows, said: said() });
    }
    let sum = |key: &'static str| -> Result<f64, NetperfError> {
        let values = flows.iter().map(|flow| value(flow, key));
        values.sum::<Option<f64>>().ok_or_else(|| NetperfError::Key { key, said: said() })
    };
    let rate = sum("THROUGHPUT")?;
    let (payload_bytes, transactions, elapsed_s) = if case.test.transacts() {
        let received = sum("LOCAL_BYTES_RECVD")?;
        let transactions = (received / f64::from(case.params.message_bytes)).floor();
        // Each carries a message there and one back.
        (2.0 * received, transactions, transactions / rate)
    } else {
        let arrived = if case.test == Test::TcpMaerts { "LOCAL_BYTES_RECVD" } else { "REMOTE_BYTES_RECVD" };
        let bytes = sum(arrived)?;
        (bytes, 0.0, bytes * 8.0 / (rate * MEGABIT))
    };
    if !(elapsed_s.is_finite() && elapsed_s > 0.0) {
        return Err(NetperfError::Nothing { said: said() });
    }
    // Floats saturate when they become whole numbers.
    Ok(Measured {
        elapsed_ns: (elapsed_s * 1e9) as u64,
        payload_bytes: payload_bytes as u64,
        transactions: transactions as u64,
    })
}

/// The number after `KEY=`, where it is one that can be measured.
fn value(flow: &str, key: &str) -> Option<f64> {
    let line = flow.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    line.trim().parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)
}

#[cfg(test)]
mod tests {
    use iommu_workloads::Scenario;
    use proptest::prelude::*;

    use super::*;

    fn cases() -> Vec<CaseSpec> {
        let mut scenario = Scenario::built_in("netperf-matrix").unwrap();
        for set in ["message_bytes=64", "flows=2", "modes=strict"] {
            scenario.set(set).unwrap();
        }
        for test in ["TCP_MAERTS", "UDP_STREAM", "UDP_RR"] {
            scenario.set(&format!("{test}.message_bytes=64")).unwrap();
        }
        scenario.expand().unwrap()
    }

    fn case(test: Test) -> CaseSpec {
        cases().into_iter().find(|case| case.test == test).unwrap()
    }

    const STREAM: &str = "# flow 1\nMIGRATED TCP STREAM TEST from 0.0.0.0 : demo\nTHROUGHPUT=800.00\r\nELAPSED_TIME=1.00\n\
                          LOCAL_BYTES_SENT=100000010\nREMOTE_BYTES_RECVD=100000000\n# flow 2\nTHROUGHPUT=800.00\n\
                          REMOTE_BYTES_RECVD=100000000\n";

    #[test]
    fn commands_are_netperfs_own() {
        let stream = command(&case(Test::TcpStream), 3);
        assert!(stream.starts_with("netperfs 2 -t TCP_STREAM -l 3 -j -- -m 64 -k THROUGHPUT,"), "{stream}");
        assert!(command(&case(Test::TcpMaerts), 1).contains("-- -M 64 "));
        assert!(command(&case(Test::UdpRr), 1).contains("-t UDP_RR -l 1 -j -- -r 64,64 "));
    }

    #[test]
    fn flows_add_up() {
        let measured = parse(&case(Test::TcpStream), STREAM).unwrap();
        assert_eq!(
            measured,
            Measured { elapsed_ns: 1_000_000_000, payload_bytes: 200_000_000, transactions: 0 }
        );
    }

    #[test]
    fn round_trips_are_counted_by_what_came_back() {
        let flow = "THROUGHPUT=1000.00\nLOCAL_BYTES_RECVD=64000\n";
        let output = format!("# flow 1\n{flow}# flow 2\n{flow}");
        let measured = parse(&case(Test::TcpRr), &output).unwrap();
        assert_eq!(
            measured,
            Measured { elapsed_ns: 1_000_000_000, payload_bytes: 256_000, transactions: 2000 }
        );
    }

    #[test]
    fn what_is_no_result_is_refused_with_what_netperf_said() {
        let stream = case(Test::TcpStream);
        let refused = parse(&stream, "# flow 1\nestablish control: are you sure there is a netserver\n");
        assert!(refused.unwrap_err().to_string().contains("are you sure"));
        let cut = STREAM.replace("REMOTE_BYTES_RECVD", "REMOTE");
        assert!(matches!(parse(&stream, &cut), Err(NetperfError::Key { key: "REMOTE_BYTES_RECVD", .. })));
        for nonsense in ["THROUGHPUT=0.00", "THROUGHPUT=nan", "THROUGHPUT=-1", "THROUGHPUT=x"] {
            assert!(parse(&stream, &STREAM.replace("THROUGHPUT=800.00", nonsense)).is_err(), "{nonsense}");
        }
    }

    proptest! {
        #[test]
        fn any_output_is_read_or_refused(output in "(# flow [12]\n|THROUGHPUT=|[0-9.eE+-]{0,9}\n|REMOTE_BYTES_RECVD=|\\PC{0,5}){0,20}") {
            if let Ok(measured) = parse(&case(Test::TcpStream), &output) {
                prop_assert!(output.contains("REMOTE_BYTES_RECVD="));
                prop_assert!(measured.transactions == 0);
            }
        }
    }
}
