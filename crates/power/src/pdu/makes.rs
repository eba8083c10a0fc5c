//! Where makes of PDUs keep their outlets: data, each with its source. Pure.
//!
//! A cell is an OID of a column and the outlet's index. What is written to switch and what is read as state are often two columns with other numbers: in APC's
//! newer branch 1 means *on* in the one and *off* in the other.

/// Where an outlet is switched and looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    /// The cell that switches: an OID, as numbers with dots.
    pub command: String,
    /// What is written to switch on.
    pub on: i32,
    /// What is written to switch off.
    pub off: i32,
    /// What is written to switch off and, after a time that the PDU knows, on. None: that is done in two steps.
    pub cycle: Option<i32>,
    /// The cell that shows the state: an OID.
    pub state: String,
    /// What it shows when the outlet is on.
    pub shows_on: i32,
    /// What it shows when the outlet is off.
    pub shows_off: i32,
    /// The cell that shows what is drawn, where outlets are measured.
    pub power: Option<Power>,
}

/// Where the watts of an outlet are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Power {
    /// The cell: an OID.
    pub value: String,
    /// The cell that says how many of its decimal digits are behind the point. None: the value is in whole watts.
    pub digits: Option<String>,
}

/// A make of PDUs.
#[derive(Debug, PartialEq, Eq)]
pub struct Make {
    /// Its name in settings.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    command: &'static str,
    on: i32,
    off: i32,
    cycle: i32,
    state: &'static str,
    shows_on: i32,
    shows_off: i32,
    power: Option<&'static str>,
    /// What stands behind the outlet's index in the cells of measurements, and the column with the digits.
    power_kind: Option<(u32, &'static str)>,
    /// Whether the index begins with the unit of a chain.
    units: bool,
    /// From what this is known.
    pub source: &'static str,
}

/// Every make that is known.
pub static MAKES: [Make; 4] = [
    Make {
        name: "apcMasterSwitch",
        title: "APC MasterSwitch and older switched rack PDUs",
        command: "1.3.6.1.4.1.318.1.1.4.4.2.1.3",
        on: 1,
        off: 2,
        cycle: 3,
        state: "1.3.6.1.4.1.318.1.1.4.4.2.1.3",
        shows_on: 1,
        shows_off: 2,
        power: None,
        power_kind: None,
        units: false,
        source: "PowerNet-MIB, sPDUOutletCtl: outletOn(1), outletOff(2), outletReboot(3); it reads as the state",
    },
    Make {
        name: "apcRackPdu",
        title: "APC switched rack PDUs, AP78xx and AP79xx",
        command: "1.3.6.1.4.1.318.1.1.12.3.3.1.1.4",
        on: 1,
        off: 2,
        cycle: 3,
        state: "1.3.6.1.4.1.318.1.1.12.3.5.1.1.4",
        shows_on: 1,
        shows_off: 2,
        power: None,
        power_kind: None,
        units: false,
        source: "PowerNet-MIB, rPDUOutletControlOutletCommand: immediateOn(1), immediateOff(2), immediateReboot(3); rPDUOutletStatusOutletState: outletStatusOn(1), outletStatusOff(2)",
    },
    Make {
        name: "apcRackPdu2",
        title: "APC rack PDUs of the second generation, AP84xx to AP89xx",
        command: "1.3.6.1.4.1.318.1.1.26.9.2.4.1.5",
        on: 1,
        off: 2,
        cycle: 3,
        state: "1.3.6.1.4.1.318.1.1.26.9.2.3.1.5",
        shows_on: 2,
        shows_off: 1,
        power: Some("1.3.6.1.4.1.318.1.1.26.9.4.3.1.7"),
        power_kind: None,
        units: false,
        source: "PowerNet-MIB, rPDU2OutletSwitchedControlCommand: immediateOn(1), immediateOff(2), immediateReboot(3); rPDU2OutletSwitchedStatusState: off(1), on(2); \
                 rPDU2OutletMeteredStatusPower in watts",
    },
    Make {
        name: "raritan",
        title: "Raritan PX2, PX3 and later",
        command: "1.3.6.1.4.1.13742.6.4.1.2.1.2",
        on: 1,
        off: 0,
        cycle: 2,
        state: "1.3.6.1.4.1.13742.6.4.1.2.1.3",
        shows_on: 7,
        shows_off: 8,
        power: Some("1.3.6.1.4.1.13742.6.5.4.3.1.4"),
        // SensorTypeEnumeration: activePower(5).
        power_kind: Some((5, "1.3.6.1.4.1.13742.6.3.5.4.1.7")),
        units: true,
        source: "PDU2-MIB, switchingOperation: off(0), on(1), cycle(2); outletSwitchingState: on(7), off(8); measurementsOutletSensorValue with outletSensorDecimalDigits",
    },
];

impl Make {
    /// The make of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        MAKES.iter().find(|make| make.name == name)
    }

    /// The cells of an outlet. Both count from 1; the unit is the PDU's place in a chain, for makes that count outlets anew in each.
    #[must_use]
    pub fn cells(&self, unit: u32, outlet: u32) -> Cells {
        let index = if self.units {
            format!("{unit}.{outlet}")
        } else {
            outlet.to_string()
        };
        let kind = self.power_kind.map_or_else(String::new, |(kind, _)| format!(".{kind}"));
        Cells {
            command: format!("{}.{index}", self.command),
            on: self.on,
            off: self.off,
            cycle: Some(self.cycle),
            state: format!("{}.{index}", self.state),
            shows_on: self.shows_on,
            shows_off: self.shows_off,
            power: self.power.map(|power| Power {
                value: format!("{power}.{index}{kind}"),
                digits: self.power_kind.map(|(_, digits)| format!("{digits}.{index}{kind}")),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlet_of_a_chain_has_its_unit_in_the_index() {
        let raritan = Make::named("raritan").expect("known").cells(2, 14);
        assert_eq!(raritan.command, "1.3.6.1.4.1.13742.6.4.1.2.1.2.2.14");
        let power = raritan.power.expect("measured");
        assert_eq!(power.value, "1.3.6.1.4.1.13742.6.5.4.3.1.4.2.14.5");
        assert_eq!(power.digits.as_deref(), Some("1.3.6.1.4.1.13742.6.3.5.4.1.7.2.14.5"));
        let apc = Make::named("apcRackPdu2").expect("known").cells(2, 14);
        assert_eq!(apc.state, "1.3.6.1.4.1.318.1.1.26.9.2.3.1.5.14");
        assert_eq!(Make::named("apc"), None);
    }

    #[test]
    fn no_number_means_two_things_in_a_cell() {
        for make in &MAKES {
            assert!(
                make.on != make.off && make.on != make.cycle && make.off != make.cycle && make.shows_on != make.shows_off,
                "{make:?}"
            );
        }
    }
}
